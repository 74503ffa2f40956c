// The kernels of fixed-point arithmetic, declared once: plain data. A code is an integer; what its last bit is worth is known
// to Python alone: here are only the differences (shift).
#pragma once
#include "team.hpp"
#include <cstddef>
#include <cstdint>

namespace fastiter {

// In the order of python/fastiter/quant/_arithmetic.py
enum class FixedRounding { trn, trn_zero, rnd, rnd_zero, rnd_min_inf, rnd_inf, rnd_conv };
enum class FixedOverflow { wrap, sat, sat_zero, sat_sym, wrap_sm };

// Assignment to a format: v -> overflow(round(v / 2^shift)), where v counts units of which 2^shift are one of the
// format's last bit (shift < 0: a unit is 2^-shift of them).
struct FixedTarget {
    int width = 1;
    bool is_signed = true;
    FixedRounding rounding = FixedRounding::trn;
    FixedOverflow overflow = FixedOverflow::wrap;
    int saturated_bits = 0;
    int64_t shift = 0;
};

// An index of three parts, the last one the fastest, over a line of items: item i is at at(i).
struct Index3 {
    int64_t size[3] = {1, 1, 1};
    int64_t stride[3] = {0, 0, 0};
    int64_t count() const { return size[0] * size[1] * size[2]; }
    int64_t at(int64_t i) const {
        const int64_t line = i / size[2];
        return line / size[1] * stride[0] + line % size[1] * stride[1] + i % size[2] * stride[2];
    }
};

// Codes in memory: signed or unsigned integers of 1, 2, 4 or 8 bytes, of which `width` bits are used. Strides count elements.
struct FixedCodes {
    const void* data = nullptr;
    int bytes = 1;
    bool is_signed = true;
    int width = 8;
    Index3 item, k;
    int magnitude() const { return width - is_signed; } // |code| is at most 2 to this power
};

// How an integer product is computed; docs/fixed.md says when each is exact.
enum class FixedPath {
    choose,
    pairs,   // the exact integer product modulo 2^32, of 16-bit codes in pairs
    fused16, // every step in lanes of 16 bits
    fused32, // of 32 bits
    lines32, // lines of products, then lines of steps: any mode, 32 bits
    lines64, // 64 bits
    wide,    // step by step, element by element, 128 bits: anything
};

// How a product of two 16-bit lanes becomes what is added: its low half; or the floor of a 2^-16th, or the nearest to a
// 2^-15th of it, after the codes were shifted left so that those are the right parts.
enum class FixedProduct { low, high, rounded };

struct FixedPlan {
    FixedPath path = FixedPath::choose;
    FixedProduct product = FixedProduct::low;
    int a_left = 0, b_left = 0; // shifts of the codes
    bool wraps_once = false;    // only the end needs an overflow: modular sums are exact
};

// c (M, N): c[m, n] = start[m, n], then for k in order c = target(c 2^shift + a[m, k] b[k, n]), where `product`, if there is
// one, is applied to each product first, and `every` > 1 products are added up exactly before each assignment.
// a has M items of K codes, b has N. rows: which lines of a and c to compute (nullptr: all). out: codes of out_bytes.
struct FixedMatmul {
    int64_t M = 0, N = 0, K = 0;
    FixedCodes a, b;
    FixedTarget acc, product;
    bool has_product = false;
    int64_t every = 1;
    const int64_t* start = nullptr; // codes of the accumulator; those of unsigned formats as uint64; nullptr: 0
    int64_t start_m = 0, start_n = 0;
    const int64_t* rows = nullptr;
    void* out = nullptr;
    int out_bytes = 1;
    Index3 out_m, out_n;
    FixedPlan plan;
    void* workspace = nullptr;
};

// out[i] = target(in[i]), n elements next to each other, by the 64-bit path where it holds what comes up (`is_narrow`)
struct FixedConvert {
    const void* in = nullptr;
    int in_bytes = 1;
    bool in_signed = true;
    void* out = nullptr;
    int out_bytes = 1;
    int64_t n = 0;
    FixedTarget target;
    bool is_narrow = false;
};

struct FixedKernels {
    size_t (*workspace)(const FixedMatmul&, int threads);
    void (*matmul)(const FixedMatmul&, Team);
    void (*convert)(const FixedConvert&, Team);
};

namespace baseline {
extern const FixedKernels fixed_kernels;
}
namespace v3 {
extern const FixedKernels fixed_kernels;
}
namespace v4 {
extern const FixedKernels fixed_kernels;
}

} // namespace fastiter
