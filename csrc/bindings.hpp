// The parts of fastiter._core, one for each family.
#pragma once
#include "arguments.hpp"

namespace fastiter {

void define_newton(py::module_& m);

} // namespace fastiter
