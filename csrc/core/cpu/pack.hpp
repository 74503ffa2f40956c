// Packs matrices into the order in which the register tile reads them.
#pragma once
#include "core/cpu/simd.hpp"
#include <cstddef>
#include <utility>

namespace fastiter::FASTITER_LEVEL {

// a0 b0 a1 b1 ... of the lower or upper halves of a and b
template <bool UPPER, class T, size_t... I>
FASTITER_INLINE vec<T> interleave(vec<T> a, vec<T> b, std::index_sequence<I...>) {
    constexpr int W = lanes<T>, half = UPPER ? W / 2 : 0;
    return __builtin_shufflevector(a, b, (half + int(I) / 2 + (I % 2 ? W : 0))...);
}

// rows[i][j] <-> rows[j][i], by log2(W) rounds of interleaving row i with row i + W/2
template <class T> FASTITER_INLINE void transpose(vec<T> (&rows)[lanes<T>]) {
    constexpr int W = lanes<T>;
    constexpr auto every_lane = std::make_index_sequence<W>{};
#pragma GCC unroll 4
    for (int round = 1; round < W; round *= 2) {
        vec<T> next[W];
#pragma GCC unroll 8
        for (int i = 0; i < W / 2; ++i) {
            next[2 * i] = interleave<false, T>(rows[i], rows[i + W / 2], every_lane);
            next[2 * i + 1] = interleave<true, T>(rows[i], rows[i + W / 2], every_lane);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) rows[i] = next[i];
    }
}

// out[k * out_k + w] = x[w * x_w + k] for w < count, 0 for count <= w < lanes
template <class T>
inline void pack_transposed(const T* x, int64_t x_w, int64_t count, int64_t K, T* out, int64_t out_k) {
    constexpr int W = lanes<T>;
    for (int64_t k = 0; k < K; k += W) {
        vec<T> rows[W];
        for (int w = 0; w < W; ++w) rows[w] = w < count ? load_up_to(x + w * x_w + k, K - k) : vec<T>{};
        transpose<T>(rows);
        for (int64_t i = 0; i < min_of(W, K - k); ++i) store(out + (k + i) * out_k, rows[i]);
    }
}

// out[w] = x[w] for w < count, 0 for count <= w < lanes
template <class T, class Out> FASTITER_INLINE void pack_line(const T* x, int64_t count, Out* out) {
    store(out, count > 0 ? load_up_to(x, count) : vec<T>{});
}

} // namespace fastiter::FASTITER_LEVEL
