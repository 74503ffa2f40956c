// Reads arrays of the bindings' arguments by the names of their fields.
#pragma once
#include "core/arguments.hpp"

namespace fastiter::bcd {

// The first element of an array that a Python object has as an attribute, and keeps alive; nullptr for None
template <class T> const T* field(const py::object& from, const char* name) {
    return address<const T>(py::object(from.attr(name)));
}

} // namespace fastiter::bcd
