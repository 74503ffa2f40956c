// State-space models in fastiter._core. Arguments are in the order of the parameter structs' fields.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "ssm/arguments.hpp"
#include "ssm/cpu/kernels.hpp"
#include <algorithm>

namespace fastiter::ssm {
namespace {

// (row, group, state, time), or (channel, state) of the type of the computation
Projection projection(py::handle x) {
    const Array array(x.ptr());
    if (array.ndim() == 2) return {{array.data<void>(), 0, 0, 0, storage_of(array)}, 0, true};
    return {{array.data<void>(), array.stride(0), array.stride(2), array.stride(3), storage_of(array)},
            array.stride(1),
            false};
}

// (sequences, D, G, N, softplus)
SelectiveShape selective_shape(const py::tuple& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    SelectiveShape s;
    s.sequences = sequences(at(0));
    s.D = integer(at(1)), s.G = integer(at(2)), s.N = integer(at(3));
    s.softplus = at(4) == Py_True;
    return s;
}

// As many threads as there are units of work; one if the work takes about as long as starting a team.
template <class T> int useful(int threads, const SelectiveShape& s, bool backward) {
    constexpr double kSmall = 1e5; // states times steps
    if (double(s.sequences.starts ? 1 : s.sequences.count) * double(s.sequences.T) * double(s.D * s.N) < kSmall)
        return 1;
    return int(std::clamp<int64_t>(kernels().of<SelectiveKernels<T>>().units(s, backward), 1, threads));
}

void selective_forward(const py::tuple& shape, py::handle u, py::handle delta, py::handle z, py::handle out,
                       py::handle A, py::handle B, py::handle C, py::handle D, py::handle delta_bias, py::handle first,
                       py::handle last, py::handle states) {
    with_float(Array(A.ptr()).bits(), [&]<class T>() {
        SelectiveScan<T> p;
        p.shape = selective_shape(shape);
        p.u = signal(u), p.delta = signal(delta), p.z = signal(z), p.out = signal(out);
        p.A = address<const T>(A), p.B = projection(B), p.C = projection(C);
        p.D = address<const T>(D), p.delta_bias = address<const T>(delta_bias);
        p.first = address<const T>(first), p.last = address<T>(last), p.states = address<T>(states);
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
    with_float(Array(in(3).ptr()).bits(), [&]<class T>() {
        SelectiveGradient<T> p;
        SelectiveScan<T>& f = p.forward;
        f.shape = selective_shape(shape);
        f.u = signal(in(0)), f.delta = signal(in(1)), f.z = signal(in(2));
        f.A = address<const T>(in(3)), f.B = projection(in(4)), f.C = projection(in(5));
        f.D = address<const T>(in(6)), f.delta_bias = address<const T>(in(7));
        f.states = address<T>(in(8));
        p.d_out = signal(d_out), p.dlast = address<const T>(dlast);
        p.du = signal(out(0)), p.ddelta = signal(out(1)), p.dz = signal(out(2));
        p.dA = address<T>(out(3)), p.dB = address<T>(out(4)), p.dC = address<T>(out(5));
        p.dD = address<T>(out(6)), p.dbias = address<T>(out(7)), p.dfirst = address<T>(out(8));
        py::gil_scoped_release release;
        launch(kernels().of<SelectiveKernels<T>>().gradient, p, [&](int threads) {
            threads = useful<T>(threads, f.shape, true);
            p.workspace = workspace.of(kernels().of<SelectiveKernels<T>>().gradient_workspace(p, threads));
            return threads;
        });
    });
}

// (row, channel), (row, head, channel), or, without rows, (channel) or (head, channel), of which `rows` are read
Signal step_signal(py::handle x, bool has_rows) {
    if (x.is_none()) return {};
    const Array array(x.ptr());
    const int axes = array.ndim() - (has_rows ? 1 : 0);
    return {array.data<void>(), has_rows ? array.stride(0) : 0, array.stride(-1), axes == 2 ? array.stride(-2) : 0,
            storage_of(array)};
}

// state (rows, [heads,] channels, N); x, dt, z, out (row, [head,] channel); A ([head,] channel, N); B and C (row, group, N);
// D and dt_bias ([head,] channel)
void state_update(const py::tuple& inputs, py::handle state, py::handle rows, bool softplus, py::handle out) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    const Array A(in(2).ptr()), h(state.ptr()), x(in(0).ptr()), B(in(3).ptr());
    with_float(A.bits(), [&]<class T>() {
        StateUpdate<T> p;
        const bool heads = x.ndim() == 3;
        p.B = x.size(0), p.H = heads ? x.size(1) : 1, p.P = x.size(-1), p.N = h.size(-1);
        p.per_group = p.H / B.size(1);
        p.softplus = softplus;
        p.state = h.data<void>(), p.state_storage = storage_of(h);
        p.state_row = h.stride(0), p.state_head = heads ? h.stride(1) : 0, p.state_channel = h.stride(-2);
        p.rows = address<const int64_t>(rows);
        p.A = A.data<const T>(), p.A_head = heads ? A.stride(0) : 0, p.A_channel = A.stride(-2),
        p.A_state = A.stride(-1);
        p.x = step_signal(in(0), true), p.dt = step_signal(in(1), true), p.z = step_signal(in(6), true);
        p.inputs = step_signal(in(3), true), p.outputs = step_signal(in(4), true);
        p.D = step_signal(in(5), false), p.dt_bias = step_signal(in(7), false), p.out = step_signal(out, true);
        py::gil_scoped_release release;
        launch(kernels().of<SelectiveKernels<T>>().state_update, p, [&](int threads) {
            constexpr double kSmall = 2e5; // states
            if (double(p.B * p.H) * double(p.P * p.N) < kSmall) threads = 1;
            p.workspace = workspace.of(kernels().of<SelectiveKernels<T>>().state_update_workspace(p, threads));
            return threads;
        });
    });
}

} // namespace

void bind_attention(py::module_& m);
void bind_conv(py::module_& m);

void bind(py::module_& m) {
    bind_attention(m);
    bind_conv(m);
    m.attr("tile") = kTile;
    m.def("selective_forward", selective_forward);
    m.def("selective_backward", selective_backward);
    m.def("state_update", state_update);
}

} // namespace fastiter::ssm
