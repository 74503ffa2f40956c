// The diagonal cells of fastiter.newton.
#include "core/arguments.hpp"
#include "newton/run.hpp"
#include <string>

namespace fastiter::newton {
namespace {

// An address with strides as a tuple (address, row, time, gate), or the ndarray (B, T, G, D) or (B, T, D) itself
template <class T> Steps<T> steps(PyObject* x) {
    Steps<T> s;
    if (PyTuple_Check(x)) {
        if (PyTuple_GET_SIZE(x) == 0) return s;
        s.data = address<T>(PyTuple_GET_ITEM(x, 0));
        int64_t* fields[] = {&s.row, &s.time, &s.gate};
        for (int i = 0; i < 3; ++i) *fields[i] = integer(PyTuple_GET_ITEM(x, i + 1));
        return s;
    }
    const auto* array = py::detail::array_proxy(x);
    auto stride = [&](int axis) { return int64_t(array->strides[axis]) / int64_t(sizeof(T)); };
    return {reinterpret_cast<T*>(array->data), stride(0), stride(1), array->nd == 4 ? stride(2) : 0};
}

template <class T> void all_steps(const py::tuple& x, Steps<T> (&out)[kMaxStates]) {
    for (size_t i = 0; i < x.size(); ++i) out[i] = steps<T>(PyTuple_GET_ITEM(x.ptr(), py::ssize_t(i)));
}

template <class T> void addresses(const py::tuple& x, T* (&out)[kMaxStates]) {
    for (size_t i = 0; i < x.size(); ++i) out[i] = address<T>(PyTuple_GET_ITEM(x.ptr(), py::ssize_t(i)));
}

// (cell, B, T, D, reverse, lengths)
ParaShape shape_of(const py::tuple& x) {
    auto at = [&](int i) { return integer(PyTuple_GET_ITEM(x.ptr(), i)); };
    ParaShape s;
    s.cell = ParaCell(at(0));
    s.B = at(1), s.T = at(2), s.D = at(3);
    s.reverse = at(4) != 0;
    s.lengths = address<const int64_t>(PyTuple_GET_ITEM(x.ptr(), 5));
    return s;
}

// newton: (window, max_steps, rtol, atol), or () to run step by step; steps_out: (2, B) or 0
template <class T>
void forward(const py::tuple& shape, py::handle wx, py::handle a, py::handle p, const py::tuple& first,
             const py::tuple& last, const py::tuple& states, const py::tuple& newton, py::handle steps_out) {
    ParaForward<T> f;
    f.shape = shape_of(shape);
    f.wx = steps<const T>(wx.ptr());
    f.a = address<const T>(a);
    f.p = address<const T>(p);
    addresses(first, f.first);
    addresses(last, f.last);
    all_steps(states, f.states);
    if (newton.size() == 4)
        f.newton = {newton[0].cast<int64_t>(), newton[1].cast<int64_t>(), newton[2].cast<double>(),
                    newton[3].cast<double>()};
    int64_t* to = address<int64_t>(steps_out);
    py::gil_scoped_release release;
    run_para_forward(f, to);
}

template <class T>
void backward(const py::tuple& shape, py::handle wx, py::handle a, py::handle p, const py::tuple& first,
              const py::tuple& states, py::handle dh, const py::tuple& dlast, py::handle dwx, py::handle da,
              py::handle dp, const py::tuple& dfirst) {
    ParaBackward<T> b;
    b.shape = shape_of(shape);
    b.wx = steps<const T>(wx.ptr());
    b.a = address<const T>(a);
    b.p = address<const T>(p);
    addresses(first, b.first);
    all_steps(states, b.states);
    b.dh = steps<const T>(dh.ptr());
    addresses(dlast, b.dlast);
    b.dwx = steps<T>(dwx.ptr());
    b.da = address<T>(da);
    b.dp = address<T>(dp);
    addresses(dfirst, b.dfirst);
    py::gil_scoped_release release;
    run_para_backward(b);
}

template <class T> void define(py::module_& m, const std::string& suffix) {
    m.def(("para_fwd" + suffix).c_str(), forward<T>);
    m.def(("para_bwd" + suffix).c_str(), backward<T>);
}

} // namespace

void bind(py::module_& m) {
    define<float>(m, "_f32");
    define<double>(m, "_f64");
}

} // namespace fastiter::newton
