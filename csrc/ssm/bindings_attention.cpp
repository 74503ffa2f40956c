// Linear attention in fastiter._core.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "ssm/arguments.hpp"
#include "ssm/cpu/attention/kernels.hpp"
#include <algorithm>

namespace fastiter::ssm {
namespace {

// (row, time, head, unit), or (row, time, head) with one unit; None is null.
Heads heads(py::handle x) {
    if (x.is_none()) return {};
    const Array array(x.ptr());
    const int64_t unit = array.ndim() == 4 ? array.stride(3) : 0;
    return {{array.data<void>(), array.stride(0), unit, array.stride(1), storage_of(array)}, array.stride(2)};
}

// (sequences, heads, per_key, K, V, scale, form), and the decay
AttentionShape attention_shape(const py::tuple& x, py::handle decay) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    AttentionShape s;
    s.sequences = sequences(at(0));
    s.heads = integer(at(1));
    s.per_key = integer(at(2));
    s.K = integer(at(3));
    s.V = integer(at(4));
    s.scale = PyFloat_AsDouble(at(5));
    s.form = DecayForm(integer(at(6)));
    if (!decay.is_none()) s.decay = Array(decay.ptr()).ndim() == 4 ? Decay::vector : Decay::scalar;
    return s;
}

// At most one thread per unit of work; one if the work takes about as long as starting a team.
int useful(int threads, const AttentionShape& s, int64_t units) {
    constexpr double kSmall = 2e5; // elements of the state times steps
    const Sequences& q = s.sequences;
    if (double(q.starts ? 1 : q.count) * double(q.T) * double(s.heads * s.K * s.V) < kSmall) return 1;
    return int(std::clamp<int64_t>(units, 1, threads));
}

// (i, f, eps, n, m); n and m each hold the first values, the last ones, and those before every tile
template <class T> Gates<T> gates(py::handle x) {
    if (x.is_none()) return {};
    auto at = [&](int i) { return py::handle(PyTuple_GET_ITEM(x.ptr(), i)); };
    return {true,
            heads(at(0)),
            heads(at(1)),
            PyFloat_AsDouble(at(2).ptr()),
            address<const T>(at(3)),
            address<const T>(at(4)),
            address<T>(at(5)),
            address<T>(at(6)),
            address<T>(at(7)),
            address<T>(at(8))};
}

void attention_forward(const py::tuple& shape, const py::tuple& inputs, py::handle gate, py::handle o, py::handle last,
                       py::handle states) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    with_float(Array(last.ptr()).bits(), [&]<class T>() {
        Attention<T> p;
        p.shape = attention_shape(shape, in(3));
        p.q = heads(in(0));
        p.k = heads(in(1));
        p.v = heads(in(2));
        p.decay = heads(in(3));
        p.bonus = address<const T>(in(4));
        p.first = address<const T>(in(5));
        p.gates = gates<T>(gate);
        if (p.gates.present) p.shape.decay = Decay::scalar;
        p.o = heads(o);
        p.last = address<T>(last);
        p.states = address<T>(states);
        py::gil_scoped_release release;
        launch(attention_kernels().of<AttentionTable<T>>().forward, p, [&](int threads) {
            threads = useful(threads, p.shape, p.shape.sequences.count * p.shape.heads);
            p.workspace = workspace.of(attention_kernels().of<AttentionTable<T>>().workspace(p, threads));
            return threads;
        });
    });
}

// gradients: of q, k, v, decay, bonus and the first state, each None if not requested. For gates: the gradients of i,
// f, the first n, and m, preceded by that of the last n and by whether gradients flow through the normaliser
void attention_backward(const py::tuple& shape, const py::tuple& inputs, py::handle gate, py::handle states,
                        py::handle d_o, py::handle dlast, const py::tuple& gradients, py::handle of_gates) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    auto out = [&](int i) { return py::handle(PyTuple_GET_ITEM(gradients.ptr(), i)); };
    with_float(Array(states.ptr()).bits(), [&]<class T>() {
        AttentionGradient<T> p;
        Attention<T>& f = p.forward;
        f.shape = attention_shape(shape, in(3));
        f.q = heads(in(0));
        f.k = heads(in(1));
        f.v = heads(in(2));
        f.decay = heads(in(3));
        f.bonus = address<const T>(in(4));
        f.states = address<T>(states);
        p.d_o = heads(d_o);
        p.dlast = address<const T>(dlast);
        p.dq = heads(out(0));
        p.dk = heads(out(1));
        p.dv = heads(out(2));
        p.ddecay = heads(out(3));
        p.dbonus = address<T>(out(4));
        p.dfirst = address<T>(out(5));
        f.gates = gates<T>(gate);
        if (f.gates.present) {
            auto of = [&](int i) { return py::handle(PyTuple_GET_ITEM(of_gates.ptr(), i)); };
            f.shape.decay = Decay::scalar;
            p.dlast_n = address<const T>(of(0));
            p.through_normalizer = of(1).ptr() == Py_True;
            p.d_i = heads(of(2));
            p.d_f = heads(of(3));
            p.dfirst_n = address<T>(of(4));
            p.dm = address<T>(of(5));
        }
        py::gil_scoped_release release;
        launch(attention_kernels().of<AttentionTable<T>>().gradient, p, [&](int threads) {
            threads = useful(threads, f.shape, f.shape.sequences.count * (f.shape.heads / f.shape.per_key));
            p.workspace = workspace.of(attention_kernels().of<AttentionTable<T>>().gradient_workspace(p, threads));
            return threads;
        });
    });
}

// inputs: q, k, v, decay, a, b, beta, first; w: where w is saved for the backward pass
void low_rank_forward(const py::tuple& shape, const py::tuple& inputs, py::handle o, py::handle last, py::handle states,
                      py::handle w) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    with_float(Array(last.ptr()).bits(), [&]<class T>() {
        LowRank<T> p;
        Attention<T>& f = p.attention;
        f.shape = attention_shape(shape, in(3));
        f.q = heads(in(0));
        f.k = heads(in(1));
        f.v = heads(in(2));
        f.decay = heads(in(3));
        p.a = heads(in(4));
        p.b = heads(in(5));
        p.beta = heads(in(6));
        p.w = heads(w);
        f.first = address<const T>(in(7));
        f.o = heads(o);
        f.last = address<T>(last);
        f.states = address<T>(states);
        py::gil_scoped_release release;
        launch(low_rank_kernels().of<LowRankTable<T>>().forward, p, [&](int threads) {
            threads = useful(threads, f.shape, f.shape.sequences.count * f.shape.heads);
            f.workspace = workspace.of(low_rank_kernels().of<LowRankTable<T>>().workspace(p, threads));
            return threads;
        });
    });
}

// gradients: of q, k, v, decay, a, b, beta and the first state, each None if not requested
void low_rank_backward(const py::tuple& shape, const py::tuple& inputs, py::handle states, py::handle w, py::handle d_o,
                       py::handle dlast, const py::tuple& gradients) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    auto out = [&](int i) { return py::handle(PyTuple_GET_ITEM(gradients.ptr(), i)); };
    with_float(Array(states.ptr()).bits(), [&]<class T>() {
        LowRankGradient<T> own;
        AttentionGradient<T>& p = own.attention;
        Attention<T>& f = p.forward;
        f.shape = attention_shape(shape, in(3));
        f.q = heads(in(0));
        f.k = heads(in(1));
        f.v = heads(in(2));
        f.decay = heads(in(3));
        own.a = heads(in(4));
        own.b = heads(in(5));
        own.beta = heads(in(6));
        own.w = heads(w);
        f.states = address<T>(states);
        p.d_o = heads(d_o);
        p.dlast = address<const T>(dlast);
        p.dq = heads(out(0));
        p.dk = heads(out(1));
        p.dv = heads(out(2));
        p.ddecay = heads(out(3));
        own.da = heads(out(4));
        own.db = heads(out(5));
        own.dbeta = heads(out(6));
        p.dfirst = address<T>(out(7));
        py::gil_scoped_release release;
        launch(low_rank_kernels().of<LowRankTable<T>>().gradient, own, [&](int threads) {
            threads = useful(threads, f.shape, f.shape.sequences.count * (f.shape.heads / f.shape.per_key));
            p.workspace = workspace.of(low_rank_kernels().of<LowRankTable<T>>().gradient_workspace(own, threads));
            return threads;
        });
    });
}

} // namespace

void bind_attention(py::module_& m) {
    m.attr("attention_tile") = kAttentionTile;
    m.def("attention_forward", attention_forward);
    m.def("attention_backward", attention_backward);
    m.def("low_rank_forward", low_rank_forward);
    m.def("low_rank_backward", low_rank_backward);
}

} // namespace fastiter::ssm
