// RWKV-4's attention in fastiter._core.ssm. Arguments are in the order of the parameter structs' fields.
#include "core/launch.hpp"
#include "ssm/arguments.hpp"
#include "ssm/cpu/wkv/kernels.hpp"

namespace fastiter::ssm {
namespace {

// (row, time, channel); None is null.
template <class T> WkvSteps<T> steps(py::handle x) {
    if (x.is_none()) return {};
    const Array array(x.ptr());
    return {array.data<T>(), array.stride(0), array.stride(1)};
}

// (numerator, denominator, m), each None for null
template <class T> WkvState<T> state(const py::tuple& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    return {address<T>(at(0)), address<T>(at(1)), address<T>(at(2))};
}

// inputs: w, bonus, k (B, T, D), v; states
template <class T> Wkv<T> wkv_of(const py::tuple& inputs, const py::tuple& first, py::handle states) {
    auto in = [&](int i) { return py::handle(PyTuple_GET_ITEM(inputs.ptr(), i)); };
    Wkv<T> p;
    const Array k(in(2).ptr());
    p.B = k.size(0);
    p.time = k.size(1);
    p.D = k.size(2);
    p.w = address<const T>(in(0));
    p.bonus = address<const T>(in(1));
    p.k = steps<const T>(in(2));
    p.v = steps<const T>(in(3));
    p.first = state<const T>(first);
    p.states = address<T>(states);
    return p;
}

int bits_of(const py::tuple& inputs) { return Array(PyTuple_GET_ITEM(inputs.ptr(), 0)).bits(); }

// Starting a team takes about as long as this many numbers.
template <class T> int useful(int threads, const Wkv<T>& p) {
    constexpr int64_t kMinNumbers = 1 << 12;
    return threads_for(p.B * p.time * p.D, kMinNumbers, threads);
}

void wkv_forward(const py::tuple& inputs, const py::tuple& first, py::handle out, const py::tuple& last,
                 py::handle states) {
    with_float(bits_of(inputs), [&]<class T>() {
        Wkv<T> p = wkv_of<T>(inputs, first, states);
        p.out = steps<T>(out);
        p.last = state<T>(last);
        py::gil_scoped_release release;
        launch(wkv_kernels().of<WkvKernelsOf<T>>().forward, p, [&](int threads) { return useful(threads, p); });
    });
}

// gradients: dw, dbonus, dk, dv
void wkv_backward(const py::tuple& inputs, const py::tuple& first, py::handle states, py::handle d_out,
                  const py::tuple& dlast, const py::tuple& gradients, const py::tuple& dfirst) {
    auto out = [&](int i) { return py::handle(PyTuple_GET_ITEM(gradients.ptr(), i)); };
    with_float(bits_of(inputs), [&]<class T>() {
        WkvGradient<T> g;
        g.forward = wkv_of<T>(inputs, first, states);
        g.d_out = steps<const T>(d_out);
        g.dlast = state<const T>(dlast);
        g.dw = address<T>(out(0));
        g.dbonus = address<T>(out(1));
        g.dk = steps<T>(out(2));
        g.dv = steps<T>(out(3));
        g.dfirst = state<T>(dfirst);
        py::gil_scoped_release release;
        g.workspace = static_cast<T*>(workspace.of(size_t(g.forward.B * 2 * g.forward.D + 1) * sizeof(T)));
        launch(wkv_kernels().of<WkvKernelsOf<T>>().gradient, g,
               [&](int threads) { return useful(threads, g.forward); });
    });
}

} // namespace

void bind_wkv(py::module_& m) {
    m.attr("wkv_tile") = kWkvTile;
    m.def("wkv_forward", wkv_forward);
    m.def("wkv_backward", wkv_backward);
}

} // namespace fastiter::ssm
