// Argument conversion of the bindings, without pybind11's casters: a call of a small layer takes only a few
// microseconds in total. An address is an integer (a tensor's data_ptr) or an ndarray.
#pragma once
#include <cstdint>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace fastiter {

inline int64_t integer(PyObject* x) {
    int64_t value = PyLong_AsLongLong(x);
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
}

template <class T> T* address(PyObject* x) {
    if (PyLong_Check(x)) return reinterpret_cast<T*>(integer(x));
    return reinterpret_cast<T*>(py::detail::array_proxy(x)->data);
}
template <class T> T* address(const py::handle& x) { return address<T>(x.ptr()); }

} // namespace fastiter
