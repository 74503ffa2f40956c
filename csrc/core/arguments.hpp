// Argument conversion of the bindings, without pybind11's casters, because a call of a small layer takes only a few
// microseconds in total. Arrays are ndarrays, torch tensors (core/arrays.hpp), or integers that hold an address.
#pragma once
#include "core/arrays.hpp"
#include <cstdint>

namespace fastiter {

inline int64_t integer(PyObject* x) {
    int64_t value = PyLong_AsLongLong(x);
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
}

// The first element of an array; nullptr for None and the address 0
template <class T> T* address(PyObject* x) {
    if (x == Py_None) return nullptr;
    if (PyLong_Check(x)) return reinterpret_cast<T*>(integer(x));
    return Array(x).data<T>();
}
template <class T> T* address(const py::handle& x) { return address<T>(x.ptr()); }

} // namespace fastiter
