// Rounding arrays to number formats: what the kernels of the family `quant` take, plain data for all instruction sets.
// docs/quant.md has every format; python/fastiter/quant/_plan.py fills these structures.
#pragma once
#include "team.hpp"
#include <cstddef>
#include <cstdint>

namespace fastiter {

// Of a number to a whole number. Ties of half_*: up, toward zero, down, away from zero; of even: to the even number.
enum class Rounding { down, zero, half_up, half_zero, half_down, half_away, even, up, away, stochastic };

// What a whole number out of range becomes. `bits`: every wrapping that looks at single bits.
enum class Overflow { saturate, zero, wrap, bits };
enum class Wrapping { saturated_bits, sign_magnitude };

// The elements of an array in memory
enum class Element { f32, f64, f16, bf16, i8, u8, i16, u16, i32, u32, i64, u64 };
constexpr int64_t element_bytes(Element e) {
    constexpr int64_t bytes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8};
    return bytes[int(e)];
}

// How many elements were NaN, out of range after rounding, and rounded to zero though they were none
struct QuantCounts {
    int64_t nan = 0, overflow = 0, underflow = 0;
    int64_t gap[5] = {}; // each thread has a line of its own
};

// code = overflow(round(x to_code)), y = code from_code; both factors are powers of two. With `divide`,
// code = overflow(round(x / to_code)) for any scale. Exact as long as codes have no more bits than T's mantissa.
struct FixedPoint {
    double to_code = 1, from_code = 1;
    double low = 0, high = 0; // the range of codes
    int width = 1, fraction = 0, saturated = 0;
    bool is_signed = true, symmetric = false, divide = false;
    Wrapping wrapping = Wrapping::saturated_bits;
};

// fixed: in floating point. wide_fixed: with integers of 128 bits, one element at a time, for everything else.
enum class Kind { fixed, wide_fixed };

struct QuantFormat {
    Kind kind = Kind::fixed;
    Rounding rounding = Rounding::even;
    Overflow overflow = Overflow::saturate;
    double nan = 0;      // stands for NaN: a NaN, which stays, or a number
    bool codes = false;  // y are codes; of the wide kinds as 64 bits in the place of a double
    bool to_odd = false; // where the wide kinds round y to a double: not to the nearest, as y will be rounded again
    FixedPoint fixed;
};

// y = x quantised, for n elements next to each other; y may be x. random: a word for each element where the rounding is
// stochastic. The counts are added to. stream: y is too large for the caches.
template <class T>
using QuantKernel = void (*)(const QuantFormat&, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts&,
                             bool stream);

// A whole array. Element i of the array takes random number i of the seed.
struct QuantJob {
    QuantFormat format;
    bool in_double = false; // computes with doubles, not floats
    uint64_t seed = 0;
    Element x_type = Element::f32, y_type = Element::f32;
    const void* x = nullptr;
    void* y = nullptr;
    int64_t n = 0;
    QuantCounts* counts = nullptr; // one for each thread
};

struct QuantKernels {
    void (*run)(const QuantJob&, Team);
};

namespace baseline {
extern const QuantKernels quant_kernels;
}
namespace v3 {
extern const QuantKernels quant_kernels;
}
namespace v4 {
extern const QuantKernels quant_kernels;
}

} // namespace fastiter
