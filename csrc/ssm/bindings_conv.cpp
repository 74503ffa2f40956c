// The causal convolution in fastiter._core.ssm. Arguments are in the order of the parameter structs' fields.
#include "core/launch.hpp"
#include "ssm/arguments.hpp"
#include "ssm/cpu/conv/kernels.hpp"
#include <algorithm>

namespace fastiter::ssm {

namespace {

// (sequences, D, W, silu, seq_idx)
ConvShape conv_shape(const py::tuple& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    ConvShape s;
    s.sequences = sequences(at(0));
    s.D = integer(at(1));
    s.W = integer(at(2));
    s.silu = at(3) == Py_True;
    s.seq_idx = address<const int32_t>(at(4));
    return s;
}

// At most one thread per unit of work; one if the work takes about as long as starting a team.
int useful(int threads, const ConvShape& s, int64_t units) {
    constexpr double kSmall = 5e4; // inputs
    const double rows = s.sequences.starts ? 1 : double(s.sequences.count);
    if (rows * double(s.sequences.T) * double(s.D) < kSmall) return 1;
    return int(std::clamp<int64_t>(units, 1, threads));
}

// Calls f with the type of the arithmetic: float64 for float64 signals, else float32.
template <class F> void with_arithmetic(const Signal& x, F f) { with_float(x.storage == Storage::f64 ? 64 : 32, f); }

void conv_forward(const py::tuple& shape, py::handle x, py::handle out, py::handle weight, py::handle bias,
                  py::handle first, py::handle last) {
    with_arithmetic(signal(x), [&]<class T>() {
        CausalConv<T> p;
        p.shape = conv_shape(shape);
        p.x = signal(x);
        p.out = signal(out);
        p.weight = address<const T>(weight);
        p.bias = address<const T>(bias);
        p.first = signal(first);
        p.last = signal(last);
        py::gil_scoped_release release;
        launch(conv_kernels().of<ConvKernels<T>>().forward, p, [&](int threads) {
            threads = useful(threads, p.shape, conv_kernels().of<ConvKernels<T>>().units(p));
            p.workspace = workspace.of(conv_kernels().of<ConvKernels<T>>().workspace(p, threads));
            return threads;
        });
    });
}

// inputs: x, weight, bias, first; gradients: dx, dweight, dbias, dfirst
void conv_backward(const py::tuple& shape, const py::tuple& inputs, py::handle d_out, py::handle dlast,
                   const py::tuple& gradients) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    auto out = [&](int i) { return py::handle(PyTuple_GET_ITEM(gradients.ptr(), i)); };
    with_arithmetic(signal(in(0)), [&]<class T>() {
        CausalConvGradient<T> p;
        CausalConv<T>& f = p.forward;
        f.shape = conv_shape(shape);
        f.x = signal(in(0));
        f.first = signal(in(3));
        f.weight = address<const T>(in(1));
        f.bias = address<const T>(in(2));
        p.d_out = signal(d_out);
        p.dlast = signal(dlast);
        p.dx = signal(out(0));
        p.dfirst = signal(out(3));
        p.dweight = address<T>(out(1));
        p.dbias = address<T>(out(2));
        py::gil_scoped_release release;
        launch(conv_kernels().of<ConvKernels<T>>().gradient, p, [&](int threads) {
            threads = useful(threads, f.shape, conv_kernels().of<ConvKernels<T>>().gradient_units(p));
            p.workspace = workspace.of(conv_kernels().of<ConvKernels<T>>().gradient_workspace(p, threads));
            return threads;
        });
    });
}

// (B, D) or (B, D, L)
Signal steps_of(const Array& x) {
    return {x.data<void>(), x.stride(0), x.stride(1), x.ndim() == 3 ? x.stride(2) : 1, storage_of(x)};
}

struct Update {
    Array x, state, weight, bias; // x (B, D) or (B, D, L), state (rows, D, N), weight (D, W), bias (D)
    bool has_bias, silu;
    const int64_t* positions = nullptr;
    const int64_t* rows = nullptr;

    void run(const Array& out) const {
        with_arithmetic(steps_of(x), [&]<class T>() {
            ConvUpdate<T> p;
            p.B = x.size(0);
            p.D = x.size(1);
            p.L = x.ndim() == 3 ? x.size(2) : 1;
            p.W = weight.size(1);
            p.N = state.size(2);
            p.silu = silu;
            p.x = steps_of(x);
            p.out = steps_of(out);
            p.state = steps_of(state);
            p.weight = {weight.data<void>(), 0, weight.stride(0), weight.stride(1), storage_of(weight)};
            if (has_bias) p.bias = {bias.data<void>(), 0, bias.stride(0), 1, storage_of(bias)};
            p.positions = positions;
            p.rows = rows;
            py::gil_scoped_release release;
            launch(conv_kernels().of<ConvKernels<T>>().update, p, [&](int threads) {
                constexpr double kSmall = 5e4; // inputs and elements of the states
                if (double(p.B) * double(p.D) * double(p.L + p.N) < kSmall) threads = 1;
                p.workspace = workspace.of(conv_kernels().of<ConvKernels<T>>().update_workspace(p, threads));
                return threads;
            });
        });
    }
};

void conv_update(py::handle x, py::handle state, py::handle weight, py::handle bias, bool silu, py::handle positions,
                 py::handle rows, py::handle out) {
    Update p{Array(x.ptr()), Array(state.ptr()), Array(weight.ptr()), {}, !bias.is_none(), silu};
    if (p.has_bias) p.bias = Array(bias.ptr());
    p.positions = address<const int64_t>(positions);
    p.rows = address<const int64_t>(rows);
    p.run(Array(out.ptr()));
}

// A step on plain tensors of matching shapes: returns the output. For all other arguments it returns None, and the
// Python path runs and reports errors.
py::object conv_update_tensors(py::handle x, py::handle state, py::handle weight, py::handle bias, bool silu) {
    Update p{{}, {}, {}, {}, !bias.is_none(), silu};
    if (!p.x.read(x.ptr()) || !p.state.read(state.ptr()) || !p.weight.read(weight.ptr())) return py::none();
    if (p.x.ndim() < 2 || p.x.ndim() > 3 || p.x.is_empty() || p.weight.ndim() != 2) return py::none();
    const int64_t B = p.x.size(0), D = p.x.size(1), W = p.weight.size(1), N = p.state.size(-1);
    const bool is_wide = p.x.bits() == 64;
    auto fits = [&](const Array& y) { return (y.bits() == 64) == is_wide; };
    if (W < 1 || N < W - 1 || !p.weight.has_shape({D, W}) || !fits(p.weight)) return py::none();
    if (!p.state.has_shape({B, D, N}) || !p.state.is_contiguous() || !fits(p.state)) return py::none();
    if (p.has_bias && (!p.bias.read(bias.ptr()) || !p.bias.has_shape({D}) || !fits(p.bias))) return py::none();
    py::object out = p.x.ndim() == 2 ? new_tensor(p.x, {B, D}) : new_tensor(p.x, {B, D, p.x.size(2)});
    p.run(Array(out.ptr()));
    return out;
}

} // namespace

void bind_conv(py::module_& m) {
    m.def("conv_forward", conv_forward);
    m.def("conv_backward", conv_backward);
    m.def("conv_update", conv_update);
    m.def("conv_update_tensors", conv_update_tensors);
}

} // namespace fastiter::ssm
