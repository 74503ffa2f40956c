// Selects the instruction set: the best that is built and that this machine supports, or the one named by FASTITER_ISA.
#pragma once
#include "core/tables.hpp"

namespace fastiter {

const char* isa_chosen();
const char* isa_built();                  // names separated by spaces
const char* isa_available();              // the built ones that this machine supports
const char* isa_choose(const char* name); // nullptr or "": the best. Returns nullptr, or the reason of failure.

} // namespace fastiter
