// Interface of the fixed-point kernels: plain data, declared once. A code is an integer; only Python knows the value of
// its last bit, the kernels know only the differences (shift).
#pragma once
#include "core/cpu/team.hpp"
#include "quant/cpu/kernels.hpp"
#include <cstddef>
#include <cstdint>

namespace fastiter::quant {

// Assignment to a format: v -> overflow(round(v / 2^shift)), where v is in units of 2^-shift times the format's last
// bit (so a negative shift means larger units). The roundings are those from down to even.
struct FixedTarget {
    int width = 1;
    bool is_signed = true;
    Rounding rounding = Rounding::down;
    Overflow overflow = Overflow::wrap;
    bool symmetric = false; // saturates below at -highest
    int saturated_bits = 0;
    int64_t shift = 0;
};

// A three-part index over a line of items, the last part varying fastest: item i is at at(i).
struct Index3 {
    int64_t size[3] = {1, 1, 1};
    int64_t stride[3] = {0, 0, 0};
    int64_t count() const { return size[0] * size[1] * size[2]; }
    int64_t at(int64_t i) const {
        const int64_t line = i / size[2];
        return line / size[1] * stride[0] + line % size[1] * stride[1] + i % size[2] * stride[2];
    }
};

// Codes in memory: signed or unsigned integers of 1, 2, 4 or 8 bytes, of which `width` bits are used. Strides are in
// elements.
struct FixedCodes {
    const void* data = nullptr;
    int bytes = 1;
    bool is_signed = true;
    int width = 8;
    Index3 item, k;
    int magnitude() const { return width - is_signed; } // |code| is at most 2 to this power
};

// Algorithm of an integer product; docs/quant/fixed_theory.md says when each is exact.
//   pairs: the exact integer product modulo 2^32, of 16-bit codes in pairs
//   fused16, fused32: every step in lanes of 16 or 32 bits
//   lines32, lines64: a line of products, then its assignments: any mode, 32 or 64 bits
//   wide: step by step, element by element, 128 bits: anything
FASTITER_EXPORTED_ENUM(FixedPath, choose, pairs, fused16, fused32, lines32, lines64, wide)

// Part of the product of two 16-bit lanes that is added: its low half; or the product times 2^-16 rounded down, or
// times 2^-15 rounded to nearest, after the codes were shifted left so that these are the wanted bits.
enum class FixedProduct { low, high, rounded };

struct FixedPlan {
    FixedPath path = FixedPath::choose;
    FixedProduct product = FixedProduct::low;
    int a_left = 0, b_left = 0; // shifts of the codes
    bool wraps_once = false;    // overflow is handled only at the end: modular sums are exact
};

// c (M, N): c[m, n] = start[m, n], then for k in order c = target(c 2^shift + a[m, k] b[k, n]). `product`, if present,
// is applied to each product first; with `every` > 1, that many products are summed exactly before each assignment. a
// has M items of K codes, b has N. rows: the rows of a and c to compute (nullptr: all). out: codes of out_bytes.
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

// out[i] = target(in[i]) for n contiguous elements, in 64 bits if all intermediate values fit (`is_narrow`)
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

FASTITER_TABLE(FixedKernels, fixed_kernels)

} // namespace fastiter::quant
