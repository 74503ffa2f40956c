// Storage type of bfloat16: the upper half of a float. No arithmetic is done in it.
#pragma once
#include <cstdint>

namespace fastiter {

struct bf16 {
    uint16_t bits;
};

// Scalar conversion, for code outside of the vectorised kernels. `static`, not only `inline`: the linker could
// otherwise keep a copy compiled for a newer processor for all callers.
static inline float widened(bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }

} // namespace fastiter
