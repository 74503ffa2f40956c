// Rounding arrays to number formats: what the kernels of the family `quant` take, plain data for all instruction sets.
// docs/quant.md has every format; python/fastiter/quant/_plan.py fills these structures.
#pragma once
#include "team.hpp"
#include <cstddef>
#include <cstdint>

namespace fastiter {

// Of a number to a whole number. Ties of half_*: up, toward zero, down, away from zero; of even: to the even number.
enum class Rounding { down, zero, half_up, half_zero, half_down, half_away, even, up, away, stochastic };

// What a whole number out of range becomes: the nearest in range, zero, its low bits (with n > 0 high bits those of the
// saturated number), its low bits in sign and magnitude (with none, one or more such bits). Floats: saturate, or not.
enum class Overflow { saturate, zero, wrap, wrap_some, sign_magnitude, sign_magnitude_one, sign_magnitude_some };

// The elements of an array in memory
enum class Element { f32, f64, f16, bf16, i8, u8, i16, u16, i32, u32, i64, u64 };
constexpr int64_t element_bytes(Element e) {
    constexpr int64_t bytes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8};
    return bytes[int(e)];
}

// How many elements were NaN, out of range after rounding, and rounded to zero though they were none. A kernel that is not
// asked to count counts one NaN or more where there are some.
struct QuantCounts {
    int64_t nan = 0, overflow = 0, underflow = 0;
    int64_t gap[5] = {}; // each thread has a line of its own
};

// code = overflow(round(x to_code)), y = code from_code; both factors are powers of two. With `divide`,
// code = overflow(round(x / to_code)) for any scale. Exact as long as codes have no more bits than T's mantissa, and for the
// first three ways of overflow also beyond, but for the last rounding: of a code that T does not hold to the nearest y.
struct FixedPoint {
    double to_code = 1, from_code = 1;
    double least = 0, most = 0; // the extreme codes among T's numbers
    double low = 0, high = 0;   // what the codes beyond become
    int width = 1, fraction = 0, saturated = 0;
    bool is_signed = true, symmetric = false, divide = false;
};

// The significand has `mantissa` bits behind the leading one, the exponent is at least min_exponent, subnormal numbers have
// its places. After rounding, numbers beyond +-most become over or under, infinities infinite or minus_infinite; saturating,
// all become +-most. Unsigned: below zero is `negative`, the least number is `least`. own_exponents: min_exponent is that of
// T's normal numbers.
struct SmallFloat {
    int mantissa = 0, min_exponent = 0, bits = 0;
    double most = 0, over = 0, under = 0, infinite = 0, minus_infinite = 0, negative = 0, least = 0;
    bool is_signed = true, has_zero = true, negative_zero = true, own_exponents = false, infinity_differs = false;
    uint64_t nan_code = 0, infinity_code = 0;
};

// Of `size` elements next to each other the largest magnitude gives the scale. mx and integers: 2^k with k the exponent of
// that magnitude, one more where its significand is carry_from or larger (`beyond`: larger), less max_exponent, from -127 to
// 127. nvfp4: a number in e4m3fn, times `scale`. A table: the magnitude itself. scales: nullptr, or where the scale of each
// block goes: k + 127, the code in e4m3fn, or a number. Where the block has NaN, and but for nvfp4 also where it has an
// infinity, that is the scale's NaN: 255, 127 of e4m3fn, or NaN.
constexpr int64_t kLongestBlock = 1024;
struct Blocks {
    int64_t size = 0;
    int max_exponent = 0;
    double carry_from = 2;
    bool beyond = false;
    double scale = 1;
    void* scales = nullptr;
};

// values rise, one more than thresholds: a number takes the value with the index that is the number of thresholds which it
// is not below. Stochastic: the thresholds are the values without the first. Both are arrays of T.
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

// fixed and small_float compute in floating point; the wide ones with integers of 128 bits, one element at a time, for what
// that does not hold.
enum class Kind {
    fixed,
    wide_fixed,
    small_float,
    wide_float,
    mx,
    nvfp4,
    block_integer,
    posit,
    table,
    logarithmic,
    powers,
};

struct QuantFormat {
    Kind kind = Kind::fixed;
    Rounding rounding = Rounding::even;
    Overflow overflow = Overflow::saturate;
    double nan = 0;     // stands for NaN: a NaN, which stays, or a number
    bool count = false; // all counts are wanted, or `nan` is a number
    bool codes =
        false; // y are codes, or (kinds with a small float) element values; of wide_fixed 64 bits in a double's place
    bool to_odd = false; // where wide_fixed rounds y to a double: not to the nearest, as y will be rounded again
    FixedPoint fixed;
    SmallFloat small;
    Blocks block;
    TableOfNumbers table;
    PositShape posit;
    PowersShape powers;
};

// y = x quantised, for n elements next to each other; y may be x. random: a word for each element where the rounding is
// stochastic. The counts are added to. stream: y is too large for the caches.
template <class T>
using QuantKernel = void (*)(const QuantFormat&, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts&,
                             bool stream);

// Element i is divided by scale[(i / run) % count] before and multiplied with it after; zero_points are added to codes.
// Arrays of the type that is computed with; nullptr: none. in_float: quotient and product are floats all the same.
struct Scaling {
    const void* scale = nullptr;
    const void* zero_point = nullptr;
    int64_t run = 1, count = 1;
    bool in_float = false;
};

// A whole array of `lines` lines of n elements; blocks do not cross lines. Element i takes random number i of the seed.
struct QuantJob {
    QuantFormat format;
    Scaling scaling;
    bool in_double = false; // computes with doubles, not floats
    uint64_t seed = 0;
    Element x_type = Element::f32, y_type = Element::f32;
    const void* x = nullptr;
    void* y = nullptr;
    int64_t lines = 1, n = 0;
    QuantCounts* counts = nullptr; // one for each thread
};

// n codes of `bits` bits one after the other, the first in the lowest bits of the first byte; `lines` lines, of which each
// begins with a byte of its own
struct PackJob {
    Element type = Element::u8;
    int bits = 8;
    void* codes = nullptr;
    uint8_t* packed = nullptr;
    int64_t lines = 1, n = 0;
    bool unpack = false, is_signed = false;
};

// A number is inside where low <= x <= high (without `limited`: everywhere). dx = dy inside, and outside 0 with `clip`, else
// dy; sums, if they are wanted: of dy (y - x) inside and dy y outside, one sum for each kGradientPart elements. y, dx and dy
// may be each other.
constexpr int64_t kGradientPart = 4096;
struct QuantGradientJob {
    bool in_double = false, limited = true, clip = true;
    double low = 0, high = 0; // numbers of the arrays' type
    const void *dy = nullptr, *x = nullptr, *y = nullptr;
    void* dx = nullptr;
    int64_t n = 0;
    double* sums = nullptr;
};

struct QuantKernels {
    void (*run)(const QuantJob&, Team);
    void (*pack)(const PackJob&, Team);
    void (*random)(uint64_t seed, uint64_t first, int64_t n, uint32_t* words);
    void (*gradient)(const QuantGradientJob&, Team);
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
