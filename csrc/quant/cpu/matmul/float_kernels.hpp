// Arguments of floating-point matrix products with a small-float accumulator: plain data.
#pragma once
#include "quant/cpu/kernels.hpp"

namespace fastiter::quant {

// The accumulator's format: `mantissa` bits behind the leading one, exponents from min_exponent on. After rounding,
// numbers beyond +-largest become over or under, infinities +-infinite.
struct FloatAccumulator {
    Rounding rounding = Rounding::even;
    int mantissa = 0, min_exponent = 0;
    double largest = 0, over = 0, under = 0, infinite = 0;
    bool has_minus_zero = true;
};

// Known properties of the sums: none; no sum has more bits than a double; rounding a sum to float first and then to the
// format gives the same as rounding it once (docs/quant/fixed_theory.md).
FASTITER_EXPORTED_ENUM(FloatSums, any, exact_in_double, nearest_in_float)

// c (M, N) = a (M, K) b (K, N): c = 0, then for k in order c = round(c + a b) with an exact sum. round is to the
// accumulator's format at every `every`-th k and at the last one, otherwise to the nearest number of the type in
// memory. c has unit column stride.
struct QuantMatmul {
    int64_t M = 0, N = 0, K = 0;
    bool in_double = false; // a, b and c are doubles in memory, not floats
    const void* a = nullptr;
    int64_t a_m = 0, a_k = 0;
    const void* b = nullptr;
    int64_t b_k = 0, b_n = 0;
    void* c = nullptr;
    int64_t c_m = 0;
    FloatAccumulator acc;
    int64_t every = 1;
    FloatSums sums = FloatSums::any;
    void* workspace = nullptr;
};

struct MatmulKernels {
    size_t (*workspace)(const QuantMatmul&, int threads);
    void (*run)(const QuantMatmul&, Team);
};

FASTITER_TABLE(MatmulKernels, matmul_kernels)

} // namespace fastiter::quant
