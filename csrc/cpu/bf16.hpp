// bfloat16 as it lies in memory: the upper half of a float. Nothing is computed in it.
#pragma once
#include <cstdint>

namespace fastiter {

struct bf16 {
    uint16_t bits;
};

// One number, outside of the kernels, which have vectors. Not merely inline: a copy that is compiled for a newer processor must
// not become everybody's.
static inline float widened(bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }

} // namespace fastiter
