// The `rnn` functions on arrays and tensors of any layout.
#include "core/arguments.hpp"
#include "rnn/run.hpp"

namespace fastiter::rnn {

// Defined in bindings_layer.cpp, bindings_tensors.cpp, bindings_stream.cpp
void bind_layer(py::module_& m);
void bind_tensors(py::module_& m);
void bind_stream(py::module_& m);

namespace {

// An address with strides as a tuple (address, row, time, gate, head), or the ndarray (B, T, G, N, D) or (B, T, N, D)
// itself
template <class T> Steps<T> steps(PyObject* x) {
    Steps<T> s;
    if (PyTuple_Check(x)) {
        if (PyTuple_GET_SIZE(x) == 0) return s;
        s.data = address<T>(PyTuple_GET_ITEM(x, 0));
        int64_t* fields[] = {&s.row, &s.time, &s.gate, &s.head};
        for (int i = 0; i < 4; ++i) *fields[i] = integer(PyTuple_GET_ITEM(x, i + 1));
        return s;
    }
    const auto* array = py::detail::array_proxy(x);
    const bool gates = array->nd == 5;
    auto stride = [&](int axis) { return int64_t(array->strides[axis]) / int64_t(sizeof(T)); };
    return {reinterpret_cast<T*>(array->data), stride(0), stride(1), gates ? stride(2) : 0, stride(gates ? 3 : 2)};
}

// Read tuples with one item per state, as many as are given.
template <class H, class T> void addresses(const py::tuple& x, PerState<H*, T*>& out) {
    for (size_t i = 0; i < x.size(); ++i) {
        PyObject* item = PyTuple_GET_ITEM(x.ptr(), py::ssize_t(i));
        if (i == 0)
            out.h = address<H>(item);
        else
            out.others[i - 1] = address<T>(item);
    }
}

template <class H, class T> void all_steps(const py::tuple& x, PerState<Steps<H>, Steps<T>>& out) {
    for (size_t i = 0; i < x.size(); ++i) {
        PyObject* item = PyTuple_GET_ITEM(x.ptr(), py::ssize_t(i));
        if (i == 0)
            out.h = steps<H>(item);
        else
            out.others[i - 1] = steps<T>(item);
    }
}

// (cell, B, T, N, D, reverse, lengths, offsets, packed_rows), optionally followed by (starts, reset, reset_row,
// clip_state, clip_grad)
RnnShape shape_of(const py::tuple& x) {
    auto at = [&](int i) { return integer(PyTuple_GET_ITEM(x.ptr(), i)); };
    RnnShape s;
    set_cell(s, at(0));
    s.B = at(1), s.T = at(2), s.N = at(3), s.D = at(4);
    s.reverse = at(5) != 0;
    s.lengths = address<const int64_t>(PyTuple_GET_ITEM(x.ptr(), 6));
    s.offsets = address<const int64_t>(PyTuple_GET_ITEM(x.ptr(), 7));
    s.packed_rows = at(8);
    if (x.size() == 9) return s;
    s.starts = address<const int64_t>(PyTuple_GET_ITEM(x.ptr(), 9));
    s.reset = address<const bool>(PyTuple_GET_ITEM(x.ptr(), 10));
    s.reset_row = at(11);
    s.clip_state = PyFloat_AsDouble(PyTuple_GET_ITEM(x.ptr(), 12));
    s.clip_grad = PyFloat_AsDouble(PyTuple_GET_ITEM(x.ptr(), 13));
    return s;
}

// (k, the states between chunks of k steps), or () for none
template <class S> Chunks<S> chunks_of(const py::tuple& x) {
    Chunks<S> chunks;
    if (x.size() == 0) return chunks;
    chunks.every = integer(PyTuple_GET_ITEM(x.ptr(), 0));
    addresses(py::tuple(x[py::slice(1, py::ssize_t(x.size()), 1)]), chunks.kept);
    return chunks;
}

template <class S>
void rnn_fwd(const py::tuple& shape, py::handle wx, py::handle r, py::handle b, const py::tuple& first,
             const py::tuple& last, const py::tuple& states, py::handle saved, const py::tuple& kept) {
    RnnForward<S> p;
    p.shape = shape_of(shape);
    p.wx = steps<const S>(wx.ptr());
    p.r = address<const S>(r);
    p.b = address<const rnn_value<S>>(b);
    addresses(first, p.first);
    addresses(last, p.last);
    all_steps(states, p.states);
    p.saved = steps<rnn_value<S>>(saved.ptr());
    const Chunks<S> chunks = chunks_of<S>(kept);
    py::gil_scoped_release release;
    if (chunks.every)
        run_forward_in_chunks(p, chunks);
    else
        run_forward(p);
}

template <class S>
void rnn_bwd(const py::tuple& shape, py::handle r, const py::tuple& first, const py::tuple& states, py::handle saved,
             const py::tuple& dstates, const py::tuple& dlast, py::handle dwx, const py::tuple& dfirst, py::handle db,
             py::handle dr, const py::tuple& kept, py::handle wx, py::handle b) {
    RnnBackward<S> p;
    p.shape = shape_of(shape);
    p.r = address<const S>(r);
    addresses(first, p.first);
    all_steps(states, p.states);
    p.saved = steps<const rnn_value<S>>(saved.ptr());
    all_steps(dstates, p.dstates);
    addresses(dlast, p.dlast);
    p.dwx = steps<S>(dwx.ptr());
    addresses(dfirst, p.dfirst);
    p.db = address<S>(db);
    S* gradient_of_r = address<S>(dr);
    const Chunks<S> chunks = chunks_of<S>(kept);
    const Steps<const S> inputs = steps<const S>(wx.ptr());
    const rnn_value<S>* bias = address<const rnn_value<S>>(b);
    py::gil_scoped_release release;
    if (chunks.every)
        run_backward_in_chunks(p, inputs, bias, chunks, gradient_of_r);
    else
        run_backward(p, gradient_of_r);
}

template <class S> void define(py::module_& m, const std::string& suffix) {
    m.def(("rnn_fwd" + suffix).c_str(), rnn_fwd<S>);
    m.def(("rnn_bwd" + suffix).c_str(), rnn_bwd<S>);
}

} // namespace

void bind(py::module_& m) {
    define<float>(m, "_f32");
    define<double>(m, "_f64");
    define<bf16>(m, "_bf16");
    bind_layer(m);
    bind_tensors(m);
    bind_stream(m);
}

} // namespace fastiter::rnn
