// fastiter._core: the delta rule. Arguments are in the order of the parameter structs' fields.
#include "core/arguments.hpp"
#include "delta/run.hpp"
#include <string>

namespace fastiter::delta {
namespace {

// (address, row, time, factor, head), strides in elements; () is null.
template <class T> Steps<T> steps(const py::tuple& x) {
    Steps<T> s;
    if (x.empty()) return s;
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    s.data = address<T>(at(0));
    int64_t* fields[] = {&s.row, &s.time, &s.gate, &s.head};
    for (int i = 0; i < 4; ++i) *fields[i] = integer(at(i + 1));
    return s;
}

// (rows, T, M, N, K, V, starts, lengths, (reset, row, time) or (), chunk, period)
DeltaShape shape_of(const py::tuple& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    DeltaShape s;
    int64_t* sizes[] = {&s.rows, &s.T, &s.M, &s.N, &s.K, &s.V};
    for (int i = 0; i < 6; ++i) *sizes[i] = integer(at(i));
    s.starts = address<const int64_t>(at(6));
    s.lengths = address<const int64_t>(at(7));
    if (PyTuple_GET_SIZE(at(8)) > 0) {
        s.reset = address<const uint8_t>(PyTuple_GET_ITEM(at(8), 0));
        s.reset_row = integer(PyTuple_GET_ITEM(at(8), 1));
        s.reset_time = integer(PyTuple_GET_ITEM(at(8), 2));
    }
    s.chunk = integer(at(9));
    s.period = integer(at(10));
    return s;
}

template <class T>
void delta_fwd(const py::tuple& shape, const py::tuple& q, const py::tuple& k, const py::tuple& v, py::handle beta,
               py::handle decay, py::handle h0, const py::tuple& o, py::handle last, py::handle e, py::handle states) {
    DeltaForward<T> p;
    p.shape = shape_of(shape);
    p.q = steps<const T>(q), p.k = steps<const T>(k), p.v = steps<const T>(v);
    p.beta = address<const T>(beta), p.decay = address<const T>(decay), p.h0 = address<const T>(h0);
    p.o = steps<T>(o);
    p.last = address<T>(last), p.e = address<T>(e), p.states = address<T>(states);
    py::gil_scoped_release release;
    run_delta_forward(p);
}

template <class T>
void delta_bwd(const py::tuple& shape, const py::tuple& q, const py::tuple& k, py::handle beta, py::handle decay,
               py::handle e, py::handle states, const py::tuple& d_o, py::handle dlast, py::handle dq, py::handle dk,
               py::handle dv, py::handle dbeta, py::handle ddecay, py::handle dh0) {
    DeltaBackward<T> p;
    p.shape = shape_of(shape);
    p.q = steps<const T>(q), p.k = steps<const T>(k);
    p.beta = address<const T>(beta), p.decay = address<const T>(decay);
    p.e = address<const T>(e), p.states = address<const T>(states);
    p.d_o = steps<const T>(d_o), p.dlast = address<const T>(dlast);
    p.dq = address<T>(dq), p.dk = address<T>(dk), p.dv = address<T>(dv);
    p.dbeta = address<T>(dbeta), p.ddecay = address<T>(ddecay), p.dh0 = address<T>(dh0);
    py::gil_scoped_release release;
    run_delta_backward(p);
}

template <class T> void define(py::module_& m, const std::string& suffix) {
    m.def(("delta_fwd" + suffix).c_str(), delta_fwd<T>);
    m.def(("delta_bwd" + suffix).c_str(), delta_bwd<T>);
}

} // namespace

void bind(py::module_& m) {
    define<float>(m, "_f32");
    define<double>(m, "_f64");
}

} // namespace fastiter::delta
