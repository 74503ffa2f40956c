// Storage types of 16 bits, in which no arithmetic is done: bfloat16, the upper half of a float, and float16.
#pragma once
#include <cstdint>

namespace fastiter {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

// Type in which numbers of type S are computed and summed
template <class S> struct accumulate {
    using type = S;
};
template <> struct accumulate<bf16> {
    using type = float;
};
template <> struct accumulate<f16> {
    using type = float;
};
template <class S> using accumulate_t = typename accumulate<S>::type;

// Scalar conversion, for code outside of the vectorised kernels. `static`, not only `inline`: the linker could
// otherwise keep a copy compiled for a newer processor for all callers.
static inline float widened(bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }

} // namespace fastiter
