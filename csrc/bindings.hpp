// The families whose bindings are files of their own; PYBIND11_MODULE calls each.
#pragma once
#include <pybind11/pybind11.h>

namespace fastiter {

void define_delta(pybind11::module_& m);

} // namespace fastiter
