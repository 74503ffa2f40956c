// fastiter._core: the delta rule. Arguments are in the order of the parameter structs' fields.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "delta/cpu/kernels.hpp"

namespace fastiter::delta {
namespace {

// Steps of (B, T, N, K), or with several factors per step (B, T, M, N, K); None is null.
template <class T> Steps<T> steps(py::handle x) {
    if (x.is_none()) return {};
    const Array array(x.ptr());
    return {array.data<T>(), array.stride(0), array.stride(1), array.ndim() == 5 ? array.stride(2) : 0,
            array.stride(-2)};
}

// (rows, T, M, N, K, V, starts, lengths, reset (B, T) or (T,), chunk, period)
DeltaShape shape_of(const py::tuple& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    DeltaShape s;
    int64_t* sizes[] = {&s.rows, &s.T, &s.M, &s.N, &s.K, &s.V};
    for (int i = 0; i < 6; ++i) *sizes[i] = integer(at(i));
    s.starts = address<const int64_t>(at(6));
    s.lengths = address<const int64_t>(at(7));
    if (at(8) != Py_None) {
        const Array reset(at(8));
        s.reset = reset.data<const uint8_t>();
        s.reset_row = reset.ndim() == 2 ? reset.stride(0) : 0;
        s.reset_time = reset.stride(-1);
    }
    s.chunk = integer(at(9));
    s.period = integer(at(10));
    return s;
}

// At most one thread per unit of work; one if the work takes about as long as starting a team.
int useful(int threads, int64_t units, const DeltaShape& s) {
    constexpr double kSmall = 1e5; // state elements times steps
    if (double(s.starts ? 1 : s.rows) * double(s.T * s.M * s.N) * double(s.K * s.V) < kSmall) return 1;
    return threads_for(units, 1, threads);
}

void delta_fwd(const py::tuple& shape, py::handle q, py::handle k, py::handle v, py::handle beta, py::handle decay,
               py::handle h0, py::handle o, py::handle last, py::handle e, py::handle states) {
    with_float(Array(q.ptr()).bits(), [&]<class T>() {
        DeltaForward<T> p;
        p.shape = shape_of(shape);
        p.q = steps<const T>(q);
        p.k = steps<const T>(k);
        p.v = steps<const T>(v);
        p.beta = address<const T>(beta);
        p.decay = address<const T>(decay);
        p.h0 = address<const T>(h0);
        p.o = steps<T>(o);
        p.last = address<T>(last);
        p.e = address<T>(e);
        p.states = address<T>(states);
        py::gil_scoped_release release;
        const KernelsOf<T>& kernel = kernels().of<KernelsOf<T>>();
        launch(kernel.fwd, p, [&](int threads) {
            threads = useful(threads, p.shape.rows * p.shape.N * kernel.blocks(p.shape), p.shape);
            p.workspace = workspace.of(kernel.fwd_workspace(p, threads));
            return threads;
        });
    });
}

void delta_bwd(const py::tuple& shape, py::handle q, py::handle k, py::handle beta, py::handle decay, py::handle e,
               py::handle states, py::handle d_o, py::handle dlast, py::handle dq, py::handle dk, py::handle dv,
               py::handle dbeta, py::handle ddecay, py::handle dh0) {
    with_float(Array(q.ptr()).bits(), [&]<class T>() {
        DeltaBackward<T> p;
        p.shape = shape_of(shape);
        p.q = steps<const T>(q);
        p.k = steps<const T>(k);
        p.beta = address<const T>(beta);
        p.decay = address<const T>(decay);
        p.e = address<const T>(e);
        p.states = address<const T>(states);
        p.d_o = steps<const T>(d_o);
        p.dlast = address<const T>(dlast);
        p.dq = steps<T>(dq);
        p.dk = steps<T>(dk);
        p.dv = steps<T>(dv);
        p.dbeta = address<T>(dbeta);
        p.ddecay = address<T>(ddecay);
        p.dh0 = address<T>(dh0);
        py::gil_scoped_release release;
        const KernelsOf<T>& kernel = kernels().of<KernelsOf<T>>();
        launch(kernel.bwd, p, [&](int threads) {
            const int64_t heads = p.shape.rows * p.shape.N, blocks = kernel.bwd_blocks(p.shape);
            p.split = heads < useful(threads, heads * blocks, p.shape);
            threads = useful(threads, p.split ? heads * blocks : heads, p.shape);
            p.workspace = workspace.of(kernel.bwd_workspace(p, threads));
            return threads;
        });
    });
}

} // namespace

void bind(py::module_& m) {
    m.def("forward", delta_fwd);
    m.def("backward", delta_bwd);
}

} // namespace fastiter::delta
