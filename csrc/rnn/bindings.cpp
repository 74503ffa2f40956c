// The recurrences on arrays of any layout, ragged, packed or with options. Outputs are passed in; arrays are ndarrays
// or tensors, tuples and lists of them, or None.
#include "core/arguments.hpp"
#include "rnn/views.hpp"

namespace fastiter::rnn {

// Defined in bindings_tensors.cpp, bindings_stream.cpp
void bind_tensors(py::module_& m);
void bind_stream(py::module_& m);

namespace {

// Steps of (B, T, G, N, D) or (B, T, N, D), or of packed lines (M, G, N, D) or (M, N, D); `gates`: with the axis G
template <class T> Steps<T> steps(PyObject* x, bool gates) {
    if (x == Py_None) return {};
    const Array array(x);
    const bool packed = array.ndim() == 3 + gates;
    const int gate = packed ? 1 : 2, head = gate + gates;
    return {array.data<T>(), array.stride(0), packed ? 0 : array.stride(1), gates ? array.stride(gate) : 0,
            array.stride(head)};
}

// Read tuples or lists with one array per state, as many as are given.
template <class H, class T> void addresses(PyObject* x, PerState<H*, T*>& out) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(x); ++i) {
        PyObject* item = PySequence_Fast_GET_ITEM(x, i);
        if (i == 0)
            out.h = address<H>(item);
        else
            out.others[i - 1] = address<T>(item);
    }
}

template <class H, class T> void all_steps(PyObject* x, PerState<Steps<H>, Steps<T>>& out) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(x); ++i) {
        PyObject* item = PySequence_Fast_GET_ITEM(x, i);
        if (i == 0)
            out.h = steps<H>(item, false);
        else
            out.others[i - 1] = steps<T>(item, false);
    }
}

// (cell, B, T, N, D, reverse, lengths, offsets, packed_rows), optionally followed by (starts, reset (rows, steps),
// clip_state, clip_grad)
RnnShape shape_of(const py::tuple& x) {
    auto item = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    auto at = [&](int i) { return integer(item(i)); };
    RnnShape s;
    set_cell(s, at(0));
    s.B = at(1);
    s.T = at(2);
    s.N = at(3);
    s.D = at(4);
    s.reverse = at(5) != 0;
    s.lengths = address<const int64_t>(item(6));
    s.offsets = address<const int64_t>(item(7));
    s.packed_rows = at(8);
    if (x.size() == 9) return s;
    s.starts = address<const int64_t>(item(9));
    if (item(10) != Py_None) {
        const Array reset(item(10));
        s.reset = reset.data<const bool>();
        s.reset_row = reset.size(1);
    }
    s.clip_state = PyFloat_AsDouble(item(11));
    s.clip_grad = PyFloat_AsDouble(item(12));
    return s;
}

// Arguments of the forward pass: input arrays, and arrays for the results
struct ForwardCall {
    py::tuple shape;
    py::handle wx, r, b;
    py::sequence first, last, states; // an array for each state, or none
    py::handle saved;                 // None: not requested
    int64_t every;                    // steps between two checkpoints; 0: none
    py::sequence checkpoints;

    template <class S> void run() const {
        RnnForward<S> p;
        p.shape = shape_of(shape);
        p.wx = steps<const S>(wx.ptr(), true);
        p.r = address<const S>(r);
        p.b = address<const accumulate_t<S>>(b);
        addresses(first.ptr(), p.first);
        addresses(last.ptr(), p.last);
        all_steps(states.ptr(), p.states);
        p.saved = steps<accumulate_t<S>>(saved.ptr(), true);
        Checkpoints<S> chunks{every, {}};
        addresses(checkpoints.ptr(), chunks.saved);
        py::gil_scoped_release release;
        if (every)
            run_forward_with_checkpoints(p, chunks);
        else
            run_forward(p);
    }
};

// Arguments of the backward pass; wx and b only with checkpoints
struct BackwardCall {
    py::tuple shape;
    py::handle r;
    py::sequence first, states;
    py::handle saved;
    py::sequence dstates, dlast;
    py::handle dwx;
    py::sequence dfirst;
    py::handle db, dr;
    int64_t every;
    py::sequence checkpoints;
    py::handle wx, b;

    template <class S> void run() const {
        RnnBackward<S> p;
        p.shape = shape_of(shape);
        p.r = address<const S>(r);
        addresses(first.ptr(), p.first);
        all_steps(states.ptr(), p.states);
        p.saved = steps<const accumulate_t<S>>(saved.ptr(), true);
        all_steps(dstates.ptr(), p.dstates);
        addresses(dlast.ptr(), p.dlast);
        p.dwx = steps<S>(dwx.ptr(), true);
        addresses(dfirst.ptr(), p.dfirst);
        p.db = address<S>(db);
        S* gradient_of_r = address<S>(dr);
        Checkpoints<S> chunks{every, {}};
        addresses(checkpoints.ptr(), chunks.saved);
        const Steps<const S> inputs = steps<const S>(wx.ptr(), true);
        const accumulate_t<S>* bias = address<const accumulate_t<S>>(b);
        py::gil_scoped_release release;
        if (every)
            run_backward_with_checkpoints(p, inputs, bias, chunks, gradient_of_r);
        else
            run_backward(p, gradient_of_r);
    }
};

// Runs a call on the storage type of an array.
template <class Call> void run_on(py::handle x, const Call& call) {
    with_storage(Array(x.ptr()).bits(), [&]<class S>() { call.template run<S>(); });
}

void rnn_fwd(const py::tuple& shape, py::handle wx, py::handle r, py::handle b, const py::sequence& first,
             const py::sequence& last, const py::sequence& states, py::handle saved, int64_t every,
             const py::sequence& checkpoints) {
    run_on(wx, ForwardCall{shape, wx, r, b, first, last, states, saved, every, checkpoints});
}

void rnn_bwd(const py::tuple& shape, py::handle r, const py::sequence& first, const py::sequence& states,
             py::handle saved, const py::sequence& dstates, const py::sequence& dlast, py::handle dwx,
             const py::sequence& dfirst, py::handle db, py::handle dr, int64_t every, const py::sequence& checkpoints,
             py::handle wx, py::handle b) {
    run_on(dwx, BackwardCall{shape, r, first, states, saved, dstates, dlast, dwx, dfirst, db, dr, every, checkpoints,
                             wx, b});
}

} // namespace

void bind(py::module_& m) {
    m.def("forward", rnn_fwd);
    m.def("backward", rnn_bwd);
    py::list sizes;
    for (const CellSize& cell : kCells)
        sizes.append(py::make_tuple(cell.gates, cell.states, cell.saved, cell.separates));
    m.attr("cell_sizes") = sizes;
    bind_tensors(m);
    bind_stream(m);
}

} // namespace fastiter::rnn
