// Rounding of arrays to number formats: arguments of the `quant` kernels, plain data, the same for all instruction
// sets. docs/quant/formats.md has every format; python/fastiter/quant/_formats fills these structures.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstddef>
#include <cstdint>

FASTITER_FAMILY(quant)

namespace fastiter::quant {

// An enumeration and the text of its members, from which bindings.cpp exports their numbers to Python.
#define FASTITER_EXPORTED_ENUM(Name, ...) \
    enum class Name { __VA_ARGS__ };      \
    constexpr char k##Name##Members[] = #__VA_ARGS__;

// Rounding to an integer. Ties of half_*: up, toward zero, down, away from zero; of even: to the even number.
FASTITER_EXPORTED_ENUM(Rounding, down, zero, half_up, half_zero, half_down, half_away, even, up, away, stochastic)

// Result for an integer out of range: the nearest in range, zero, its low bits (with n > 0 saturated high bits), its
// low bits in sign and magnitude (with none, one or more saturated bits). Floats: saturate, or not.
FASTITER_EXPORTED_ENUM(Overflow, saturate, zero, wrap, wrap_some, sign_magnitude, sign_magnitude_one,
                       sign_magnitude_some)

// Element type of an array
FASTITER_EXPORTED_ENUM(Element, f32, f64, f16, bf16, i8, u8, i16, u16, i32, u32, i64, u64)
constexpr int64_t element_bytes(Element e) {
    constexpr int64_t bytes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8};
    return bytes[int(e)];
}

// Number of elements that were NaN, out of range after rounding, and nonzero but rounded to zero. A kernel that does
// not have to count reports at least one NaN if there are any.
struct QuantCounts {
    int64_t nan = 0, overflow = 0, underflow = 0;
    int64_t gap[5] = {}; // padding: each thread has its own cache line
};

// code = overflow(round(x to_code)), y = code from_code; both factors are powers of two. With `divide`, code =
// overflow(round(x / to_code)) for any scale. Exact if codes have no more bits than T's mantissa; for the first three
// overflow modes also beyond, except for the final rounding of a code that T cannot represent to the nearest y.
struct FixedPoint {
    double to_code = 1, from_code = 1;
    double lowest = 0, highest = 0; // the extreme codes that T can represent
    double low = 0, high = 0;       // results for codes beyond these
    int width = 1, fraction = 0, saturated = 0;
    bool is_signed = true, symmetric = false, divide = false;
};

// The significand has `mantissa` bits behind the leading one, the exponent is at least min_exponent, and subnormal
// numbers have the last place of that exponent. After rounding, numbers beyond +-largest become over or under, infinities
// infinite or minus_infinite; with saturation, all become +-largest. Unsigned formats: numbers below zero become
// `negative`; `smallest` is the smallest number. own_exponents: min_exponent is that of T's normal numbers.
struct SmallFloat {
    int mantissa = 0, min_exponent = 0, bits = 0;
    double largest = 0, over = 0, under = 0, infinite = 0, minus_infinite = 0, negative = 0, smallest = 0;
    bool is_signed = true, has_zero = true, negative_zero = true, own_exponents = false, infinity_differs = false;
    uint64_t nan_code = 0, infinity_code = 0;
};

// The scale of a block of `size` contiguous elements comes from its largest magnitude. mx and integers: 2^k with k the
// exponent of that magnitude, plus one if its significand is at least carry_from (`beyond`: greater), minus
// max_exponent, clamped to -127 to 127. nvfp4: a number in e4m3fn, times `scale`. A table: the magnitude itself.
// scales: nullptr, or the output for each block's scale: k + 127, the code in e4m3fn, or a number. If the block has a
// NaN or (except for nvfp4) an infinity, that is the scale's NaN: 255, 127 in e4m3fn, or NaN.
constexpr int64_t kLongestBlock = 1024;
struct Blocks {
    int64_t size = 0;
    int max_exponent = 0;
    double carry_from = 2;
    bool beyond = false;
    double scale = 1;
    void* scales = nullptr;
};

// values ascend, one more than thresholds: a number is rounded to values[i], where i is the number of thresholds <= it.
// Stochastic: the thresholds are the values without the first. Both are arrays of T.
struct TableOfNumbers {
    const void* thresholds = nullptr;
    const void* values = nullptr;
    int count = 0;
};

struct PositShape {
    int n = 0, es = 0, max_exponent = 0;
};

struct PowersShape {
    int terms = 0;
    bool nearest = false;
};

// fixed and small_float compute in floating point; wide_fixed and wide_float in 128-bit integers, one element at a
// time, for formats and inputs beyond floating point.
FASTITER_EXPORTED_ENUM(Kind, fixed, wide_fixed, small_float, wide_float, mx, nvfp4, block_integer, posit, table,
                       logarithmic, powers)

struct QuantFormat {
    Kind kind = Kind::fixed;
    Rounding rounding = Rounding::even;
    Overflow overflow = Overflow::saturate;
    double nan = 0;     // replaces NaN: a NaN, which is kept, or a number
    bool count = false; // all counts are requested, or `nan` is a number
    bool codes =
        false; // y are codes, or (kinds with a small float) element values; wide_fixed: 64 bits in place of a double
    bool to_odd = false; // wide_fixed rounds y to odd, not to the nearest double, as y will be rounded again
    FixedPoint fixed;
    SmallFloat small;
    Blocks block;
    TableOfNumbers table;
    PositShape posit;
    PowersShape powers;
};

// y = x quantised, for n contiguous elements; y may be x. random: one word per element if the rounding is stochastic.
// Adds to the counts. stream: y exceeds the caches.
template <class T>
using QuantKernel = void (*)(const QuantFormat&, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts&,
                             bool stream);

// Element i is divided by scale[(i / run) % count] before and multiplied by it afterwards; zero_points are added to
// codes. Arrays of the type of the computation; nullptr: none. in_float: quotient and product are rounded to float in
// any case.
struct Scaling {
    const void* scale = nullptr;
    const void* zero_point = nullptr;
    int64_t run = 1, count = 1;
    bool in_float = false;
};

// A whole array of `lines` lines of n elements; blocks do not cross lines. Element i uses random number i of the seed's
// sequence.
struct QuantJob {
    QuantFormat format;
    Scaling scaling;
    bool in_double = false; // computes in double, not float
    uint64_t seed = 0;
    Element x_type = Element::f32, y_type = Element::f32;
    const void* x = nullptr;
    void* y = nullptr;
    int64_t lines = 1, n = 0;
    QuantCounts* counts = nullptr; // one for each thread
};

// Bit packing of n codes of `bits` bits, the first in the lowest bits of the first byte; each of the `lines` lines
// begins at a byte boundary.
struct PackJob {
    Element type = Element::u8;
    int bits = 8;
    void* codes = nullptr;
    uint8_t* packed = nullptr;
    int64_t lines = 1, n = 0;
    bool unpack = false, is_signed = false;
};

// A number is inside if low <= x <= high (without `limited`: always). dx = dy inside; outside it is 0 with `clip`, else
// dy. sums (nullptr: none): sums of dy (y - x) inside and dy y outside, one for each kGradientPart elements. y, dx and
// dy may alias.
constexpr int64_t kGradientPart = 4096;
struct QuantGradientJob {
    bool in_double = false, limited = true, clip = true;
    double low = 0, high = 0; // numbers of the arrays' type
    const void *dy = nullptr, *x = nullptr, *y = nullptr;
    void* dx = nullptr;
    int64_t n = 0;
    double* sums = nullptr;
};

struct Kernels {
    void (*run)(const QuantJob&, Team);
    void (*pack)(const PackJob&, Team);
    void (*random)(uint64_t seed, uint64_t first, int64_t n, uint32_t* words);
    void (*gradient)(const QuantGradientJob&, Team);
};

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::quant
