// Which instruction set's kernels run: the best that this build has and this machine can, or the one that FASTITER_ISA names.
#pragma once
#include "cpu/kernels.hpp"

namespace fastiter {

const Kernels& kernels();
const char* isa_chosen();
const char* isa_built();                  // names separated by spaces
const char* isa_available();              // of the built ones, those that this machine can run
const char* isa_choose(const char* name); // nullptr or "": the best. Returns nullptr, or why it cannot be had.

} // namespace fastiter
