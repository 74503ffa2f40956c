// bfloat16 as it lies in memory: the upper half of a float. Nothing is computed in it.
#pragma once
#include <bit>
#include <cstdint>

namespace fastiter {

struct bf16 {
    uint16_t bits;
};

// One number, outside of the kernels, which have vectors. Not merely inline: a copy that is compiled for a newer processor must
// not become everybody's.
static inline float widened(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }

// To the nearest, ties to even; a NaN stays one
static inline bf16 narrowed(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t nearest = bits + 0x7fff + ((bits >> 16) & 1), quiet = bits | 0x400000;
    return {uint16_t((x != x ? quiet : nearest) >> 16)};
}

} // namespace fastiter
