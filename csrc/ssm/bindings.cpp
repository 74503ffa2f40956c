// State-space models in fastiter._core. Arguments are in the order of the parameter structs' fields.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "ssm/arguments.hpp"
#include "ssm/cpu/kernels.hpp"
#include <algorithm>

namespace fastiter::ssm {
namespace {

// (row, group, state, time), or (channel, state) in the type of the computation
Projection projection(py::handle x) {
    const Array array(x.ptr());
    if (array.ndim() == 2) return {{array.data<void>(), 0, 0, 0, storage_of(array)}, 0, true};
    return {{array.data<void>(), array.stride(0), array.stride(2), array.stride(3), storage_of(array)},
            array.stride(1),
            false};
}

// (sequences, D, G, N, softplus, whether the states are complex)
SelectiveShape selective_shape(const py::tuple& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    SelectiveShape s;
    s.sequences = sequences(at(0));
    s.D = integer(at(1));
    s.G = integer(at(2));
    s.N = integer(at(3));
    s.softplus = at(4) == Py_True;
    s.is_complex = at(5) == Py_True;
    return s;
}

// At most one thread per unit of work; one if the work takes about as long as starting a team.
template <class T> int useful(int threads, const SelectiveShape& s, bool backward) {
    constexpr double kSmall = 1e5; // states times steps
    if (double(s.sequences.starts ? 1 : s.sequences.count) * double(s.sequences.T) * double(s.D * s.N) < kSmall)
        return 1;
    return int(std::clamp<int64_t>(kernels().of<SelectiveKernels<T>>().units(s, backward), 1, threads));
}

void selective_forward(const py::tuple& shape, py::handle u, py::handle delta, py::handle z, py::handle out,
                       py::handle A, py::handle B, py::handle C, py::handle D, py::handle delta_bias, py::handle first,
                       py::handle last, py::handle states) {
    with_float(Array(A.ptr()).real_bits(), [&]<class T>() {
        SelectiveScan<T> p;
        p.shape = selective_shape(shape);
        p.u = signal(u);
        p.delta = signal(delta);
        p.z = signal(z);
        p.out = signal(out);
        p.A = address<const T>(A);
        p.B = projection(B);
        p.C = projection(C);
        p.D = address<const T>(D);
        p.delta_bias = address<const T>(delta_bias);
        p.first = address<const T>(first);
        p.last = address<T>(last);
        p.states = address<T>(states);
        py::gil_scoped_release release;
        launch(kernels().of<SelectiveKernels<T>>().forward, p, [&](int threads) {
            threads = useful<T>(threads, p.shape, false);
            p.workspace = workspace.of(kernels().of<SelectiveKernels<T>>().workspace(p, threads));
            return threads;
        });
    });
}

void selective_backward(const py::tuple& shape, const py::tuple& inputs, py::handle d_out, py::handle dlast,
                        const py::tuple& gradients) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    auto out = [&](int i) { return py::handle(PyTuple_GET_ITEM(gradients.ptr(), i)); };
    with_float(Array(in(3).ptr()).real_bits(), [&]<class T>() {
        SelectiveGradient<T> p;
        SelectiveScan<T>& f = p.forward;
        f.shape = selective_shape(shape);
        f.u = signal(in(0));
        f.delta = signal(in(1));
        f.z = signal(in(2));
        f.A = address<const T>(in(3));
        f.B = projection(in(4));
        f.C = projection(in(5));
        f.D = address<const T>(in(6));
        f.delta_bias = address<const T>(in(7));
        f.states = address<T>(in(8));
        p.d_out = signal(d_out);
        p.dlast = address<const T>(dlast);
        p.du = signal(out(0));
        p.ddelta = signal(out(1));
        p.dz = signal(out(2));
        p.dA = address<T>(out(3));
        p.dB = address<T>(out(4));
        p.dC = address<T>(out(5));
        p.dD = address<T>(out(6));
        p.dbias = address<T>(out(7));
        p.dfirst = address<T>(out(8));
        py::gil_scoped_release release;
        launch(kernels().of<SelectiveKernels<T>>().gradient, p, [&](int threads) {
            threads = useful<T>(threads, f.shape, true);
            p.workspace = workspace.of(kernels().of<SelectiveKernels<T>>().gradient_workspace(p, threads));
            return threads;
        });
    });
}

// (row, channel), (row, head, channel), or, without rows, (channel) or (head, channel), which has `rows` rows
Signal step_signal(const Array& array, bool has_rows) {
    const int axes = array.ndim() - (has_rows ? 1 : 0);
    return {array.data<void>(), has_rows ? array.stride(0) : 0, array.stride(-1), axes == 2 ? array.stride(-2) : 0,
            storage_of(array)};
}
Signal step_signal(py::handle x, bool has_rows) {
    return x.is_none() ? Signal{} : step_signal(Array(x.ptr()), has_rows);
}

// The step's arrays: state (rows, [heads,] channels, N); x, dt, z, out (row, [head,] channel); A ([head,] channel, N);
// B and C (row, group, N) or (row, N); D and dt_bias ([head,] channel)
struct Step {
    Array state, x, A, B;
    Signal dt = {}, z = {}, C = {}, D = {}, dt_bias = {};
    const int64_t* rows = nullptr;
    bool softplus = false;

    void run(const Array& out) const {
        with_float(A.bits(), [&]<class T>() {
            StateUpdate<T> p;
            const bool heads = x.ndim() == 3;
            p.B = x.size(0);
            p.H = heads ? x.size(1) : 1;
            p.P = x.size(-1);
            p.N = state.size(-1);
            p.per_group = p.H / (B.ndim() == 3 ? B.size(1) : 1);
            p.softplus = softplus;
            p.state = state.data<void>();
            p.state_storage = storage_of(state);
            p.state_row = state.stride(0);
            p.state_head = heads ? state.stride(1) : 0;
            p.state_channel = state.stride(-2);
            p.rows = rows;
            p.A = A.data<const T>();
            p.A_head = heads ? A.stride(0) : 0;
            p.A_channel = A.stride(-2);
            p.A_state = A.stride(-1);
            p.x = step_signal(x, true);
            p.dt = dt;
            p.z = z;
            p.out = step_signal(out, true);
            p.inputs = step_signal(B, true);
            p.outputs = C;
            p.D = D;
            p.dt_bias = dt_bias;
            py::gil_scoped_release release;
            launch(kernels().of<SelectiveKernels<T>>().state_update, p, [&](int threads) {
                constexpr double kSmall = 2e5; // states
                if (double(p.B * p.H) * double(p.P * p.N) < kSmall) threads = 1;
                p.workspace = workspace.of(kernels().of<SelectiveKernels<T>>().state_update_workspace(p, threads));
                return threads;
            });
        });
    }
};

// inputs: x, dt, A, B, C, D, z, dt_bias
void state_update(const py::tuple& inputs, py::handle state, py::handle rows, bool softplus, py::handle out) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    Step p{Array(state.ptr()), Array(in(0).ptr()), Array(in(2).ptr()), Array(in(3).ptr())};
    p.dt = step_signal(in(1), true);
    p.z = step_signal(in(6), true);
    p.C = step_signal(in(4), true);
    p.D = step_signal(in(5), false);
    p.dt_bias = step_signal(in(7), false);
    p.rows = address<const int64_t>(rows);
    p.softplus = softplus;
    p.run(Array(out.ptr()));
}

// Whether the memory between the first and the last element of a tensor overlaps that of another one
bool may_share_memory(const Array& a, const Array& b) {
    auto end = [](const Array& x) {
        int64_t last = 0;
        for (int i = 0; i < x.ndim(); i++) last += (x.size(i) - 1) * x.stride(i);
        return x.data<const char>() + (last + 1) * (x.bits() / 8);
    };
    return a.data<const char>() < end(b) && b.data<const char>() < end(a);
}

// A step on plain tensors of matching shapes: returns the output. For all other arguments it returns None, and the
// Python path runs and reports errors.
py::object state_update_tensors(py::handle state, const py::tuple& inputs, bool softplus) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    Step p{};
    if (!p.state.read(state.ptr()) || !p.x.read(in(0).ptr()) || !p.A.read(in(2).ptr()) || !p.B.read(in(3).ptr()))
        return py::none();
    const bool heads = p.x.ndim() == 3;
    if (p.x.ndim() != (heads ? 3 : 2) || p.x.is_empty() || p.state.ndim() != p.x.ndim() + 1) return py::none();
    if (!p.state.is_contiguous() || p.state.is_empty() || p.B.ndim() != p.x.ndim() || p.B.is_empty()) return py::none();
    const int64_t batch = p.x.size(0), H = heads ? p.x.size(1) : 1, P = p.x.size(-1), N = p.state.size(-1);
    const int64_t G = heads ? p.B.size(1) : 1;
    const bool is_wide = p.x.bits() == 64;
    auto fits = [&](const Array& y) { return (y.bits() == 64) == is_wide; };
    // y is (batch, [count,] last), or without the batch axis
    auto has_shape = [&](const Array& y, bool rows, int64_t count, int64_t last) {
        if (rows) return heads ? y.has_shape({batch, count, last}) : y.has_shape({batch, last});
        return heads ? y.has_shape({count, last}) : y.has_shape({last});
    };
    if (!(heads ? p.state.has_shape({batch, H, P, N}) && p.A.has_shape({H, P, N})
                : p.state.has_shape({batch, P, N}) && p.A.has_shape({P, N})))
        return py::none();
    if (!(p.A.has_unit_stride() || p.A.stride(-1) == 0) || p.A.bits() != (is_wide ? 64 : 32) || H % G != 0)
        return py::none();
    auto read = [&](int i, bool rows, int64_t count, int64_t last, Signal& to) {
        if (in(i).is_none()) return true;
        Array y;
        if (!y.read(in(i).ptr()) || !has_shape(y, rows, count, last) || !fits(y)) return false;
        if (may_share_memory(p.state, y)) return false;
        to = step_signal(y, rows);
        return true;
    };
    if (!has_shape(p.B, true, G, N) || !fits(p.B) || !fits(p.state) || in(1).is_none() || in(4).is_none())
        return py::none();
    if (!read(1, true, H, P, p.dt) || !read(4, true, G, N, p.C) || !read(5, false, H, P, p.D) ||
        !read(6, true, H, P, p.z) || !read(7, false, H, P, p.dt_bias))
        return py::none();
    for (const Array& y : {p.x, p.A, p.B})
        if (may_share_memory(p.state, y)) return py::none();
    p.softplus = softplus;
    py::object out = heads ? new_tensor(p.x, {batch, H, P}) : new_tensor(p.x, {batch, P});
    p.run(Array(out.ptr()));
    return out;
}

} // namespace

void bind_attention(py::module_& m);
void bind_conv(py::module_& m);
void bind_mixer(py::module_& m);
void bind_wkv(py::module_& m);

void bind(py::module_& m) {
    bind_attention(m);
    bind_conv(m);
    bind_mixer(m);
    bind_wkv(m);
    m.attr("tile") = kTile;
    m.def("selective_forward", selective_forward);
    m.def("selective_backward", selective_backward);
    m.def("state_update", state_update);
    m.def("state_update_tensors", state_update_tensors);
}

} // namespace fastiter::ssm
