// The `decode` functions of fastiter._core
#include "core/arguments.hpp"

namespace fastiter::decode {

// Defined in bindings_packed.cpp and bindings_program.cpp
void bind_packed(py::module_& m);
void bind_program(py::module_& m);

void bind(py::module_& m) {
    bind_packed(m);
    bind_program(m);
}

} // namespace fastiter::decode
