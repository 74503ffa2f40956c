// The parts of the module, one per file, each of which defines its functions in fastiter._core.
#pragma once
#include "core/arguments.hpp"

namespace fastiter {

void define_delta(py::module_& m);
void define_fixed(py::module_& m);
void define_layer(py::module_& m);
void define_newton(py::module_& m);
void define_quant(py::module_& m);
void define_relax(py::module_& m);
void define_relax_tuners(py::module_& m);
void define_rnn(py::module_& m);
void define_scan(py::module_& m);
void define_step(py::module_& m);
void define_tensor(py::module_& m);

} // namespace fastiter
