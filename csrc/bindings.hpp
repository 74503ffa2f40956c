// The parts of the module: each defines its functions in fastiter._core.
#pragma once
#include "arguments.hpp"

namespace fastiter {

void define_quant(py::module_& m);
void define_tensor(py::module_& m);
void define_fixed(py::module_& m);

} // namespace fastiter
