// The bindings of the diagonal cells of fastiter.newton.
#include "core/arguments.hpp"
#include "newton/run.hpp"

namespace fastiter::newton {
namespace {

// Steps of (B, T, G, D) or (B, T, D); None is null.
template <class T> Steps<T> steps(PyObject* x) {
    if (x == Py_None) return {};
    const Array array(x);
    return {array.data<T>(), array.stride(0), array.stride(1), array.ndim() == 4 ? array.stride(2) : 0};
}

template <class T> void all_steps(const py::sequence& x, Steps<T> (&out)[kMaxStates]) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(x.ptr()); ++i)
        out[i] = steps<T>(PySequence_Fast_GET_ITEM(x.ptr(), i));
}

// One array for each state: a tuple or list of arrays, or slices of one contiguous array (S, B, D); None is null.
template <class T> void addresses(py::handle x, T* (&out)[kMaxStates]) {
    if (x.is_none()) return;
    if (PyTuple_Check(x.ptr()) || PyList_Check(x.ptr())) {
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(x.ptr()); ++i)
            out[i] = address<T>(PySequence_Fast_GET_ITEM(x.ptr(), i));
        return;
    }
    const Array all(x.ptr());
    for (int i = 0; i < int(all.size(0)); ++i) out[i] = all.data<T>() + i * all.stride(0);
}

// (cell, B, T, D, reverse, lengths, lines, starts)
ParaShape shape_of(const py::tuple& x) {
    auto at = [&](int i) { return integer(PyTuple_GET_ITEM(x.ptr(), i)); };
    ParaShape s;
    s.cell = ParaCell(at(0));
    s.B = at(1);
    s.T = at(2);
    s.D = at(3);
    s.reverse = at(4) != 0;
    s.lengths = address<const int64_t>(PyTuple_GET_ITEM(x.ptr(), 5));
    s.lines = address<const int64_t>(PyTuple_GET_ITEM(x.ptr(), 6));
    s.starts = address<const int64_t>(PyTuple_GET_ITEM(x.ptr(), 7));
    return s;
}

// newton: (window, max_steps, rtol, atol), or () to run step by step; steps_out: (2, B) or None
void para_fwd(const py::tuple& shape, py::handle wx, py::handle a, py::handle p, py::handle first, py::handle last,
              const py::sequence& states, const py::tuple& newton, py::handle steps_out) {
    with_float(Array(wx.ptr()).bits(), [&]<class T>() {
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
    });
}

void para_bwd(const py::tuple& shape, py::handle wx, py::handle a, py::handle p, py::handle first,
              const py::sequence& states, py::handle dh, py::handle dlast, py::handle dwx, py::handle da, py::handle dp,
              py::handle dfirst) {
    with_float(Array(wx.ptr()).bits(), [&]<class T>() {
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
    });
}

} // namespace

void bind(py::module_& m) {
    m.def("forward", para_fwd);
    m.def("backward", para_bwd);
}

} // namespace fastiter::newton
