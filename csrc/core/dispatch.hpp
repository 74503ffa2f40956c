// Selects the instruction set: the best that is built and that this machine supports, or the one named by FASTITER_ISA.
#pragma once
#include "core/tables.hpp"
#include <string>

namespace fastiter {

const char* isa_chosen();
const char* isa_built();                  // names separated by spaces
const char* isa_available();              // the built ones that this machine supports
bool fuses_multiply_add();                // whether the chosen one does, and so rounds a * b + c once
std::string isa_choose(const char* name); // nullptr or "": the best. Returns "", or a sentence that says what is wrong.

} // namespace fastiter
