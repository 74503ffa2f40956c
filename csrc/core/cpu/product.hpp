// Product of a few rows and a packed panel of r, for storage type S. A bf16 panel has two consecutive k in every lane,
// the even one in the lower half: the layout of AVX512_BF16, in half the bytes of floats.
#pragma once
#include "core/cpu/amx.hpp"
#include "core/cpu/pack.hpp"
#include "core/cpu/tile.hpp"

namespace fastiter::FASTITER_LEVEL {

// Number of k per lane of a panel, and the padded depth of a panel for K rows of r; rows beyond K are 0
template <class S> constexpr int side_by_side = sizeof(S) == 2 ? 2 : 1;
template <class S> constexpr int64_t panel_depth(int64_t K) {
    return round_up(K, on_tiles<S> ? 2 * kTilePairs : side_by_side<S>);
}

// Rows of a tile that is NV vectors wide
template <class S, int NV> constexpr int rows_of_tile = on_tiles<S> ? 2 * kTileRows : tile_rows<NV>;

FASTITER_INLINE vec<float> side_by_side_of(vec<float> even, vec<float> odd) {
    return (vec<float>)(((words)even >> 16) | ((words)odd & 0xffff0000u));
}

FASTITER_INLINE void store_pairs(bf16* out, vec<float> even, vec<float> odd, int64_t count = lanes<float>) {
    const vec<float> pairs = side_by_side_of(even, odd);
    if (count >= lanes<float>)
        __builtin_memcpy(out, &pairs, sizeof pairs);
    else
        __builtin_memcpy(out, &pairs, size_t(count) * 2 * sizeof(bf16));
}

// Stores the first `count` lanes (or all, if fewer) of line(0), interleaved with line(1) if lanes hold two k.
template <class S, class Line> FASTITER_INLINE void store_side_by_side(S* out, Line line, int64_t count) {
    if constexpr (side_by_side<S> == 2)
        store_pairs(out, line(0), line(1), count);
    else
        store_up_to(out, line(0), count);
}

// Clears the padding rows of a panel after the K rows of r; `width` numbers per row (or per pair of rows).
template <class S> inline void clear_rest_of_panel(S* panel, int64_t K, int64_t width) {
    const int64_t depth = round_up(K, side_by_side<S>);
    __builtin_memset(panel + depth * width, 0, size_t((panel_depth<S>(K) - depth) * width) * sizeof(S));
}

// Packs rows k and k + 1 of a panel, the second of which may not exist; line(k) is a vector.
template <class S, class Line>
FASTITER_INLINE void pack_lines(S* panel, int64_t panel_k, int64_t k, int64_t K, Line line) {
    if constexpr (sizeof(S) == 2) {
        store_pairs(panel + k * panel_k, line(k), k + 1 < K ? line(k + 1) : vec<float>{});
    } else {
        store(panel + k * panel_k, line(k));
        if (k + 1 < K) store(panel + (k + 1) * panel_k, line(k + 1));
    }
}

// out[k * out_k + w] = x[w * x_w + k] for w < count, 0 for count <= w < lanes; pairs of k are interleaved
inline void pack_transposed(const bf16* x, int64_t x_w, int64_t count, int64_t K, bf16* out, int64_t out_k) {
    constexpr int W = lanes<float>;
    for (int64_t k = 0; k < K; k += 2 * W) { // transposes pairs as single numbers
        vec<float> rows[W] = {};
        const size_t bytes = size_t(min_of(2 * W, K - k)) * sizeof(bf16);
        for (int w = 0; w < W && w < count; ++w)
            if (bytes == sizeof rows[w])
                __builtin_memcpy(&rows[w], x + w * x_w + k, sizeof rows[w]);
            else
                __builtin_memcpy(&rows[w], x + w * x_w + k, bytes);
        transpose<float>(rows);
        for (int64_t i = 0; i < ceil_div(min_of(2 * W, K - k), 2); ++i)
            __builtin_memcpy(out + (k + 2 * i) * out_k, &rows[i], sizeof rows[i]);
    }
}

#if defined(__AVX512BF16__)
FASTITER_INLINE vec<float> add_pair_products(vec<float> acc, uint32_t x, words line) {
    return (vec<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(x)), (__m512bh)line);
}
#else
FASTITER_INLINE vec<float> add_pair_products(vec<float> acc, uint32_t x, words line) {
    const words pair = words{} + x;
    acc = fma((vec<float>)(pair << 16), (vec<float>)(line << 16), acc);
    return fma((vec<float>)(pair & 0xffff0000u), (vec<float>)(line & 0xffff0000u), acc);
}
#endif

// multiply_add of tile.hpp for `pairs` pairs of k; x_row and x_k (from pair to pair) are in numbers.
template <int ROWS, int NV, int PANELS>
FASTITER_INLINE void add_pairs(const bf16* x, int64_t x_row, int64_t x_k, const bf16* panel, int64_t panel_stride,
                               int64_t pairs, vec<float> (&acc)[ROWS][PANELS * NV]) {
    constexpr int W = lanes<float>;
#pragma GCC unroll 2
    for (int64_t k = 0; k < pairs; ++k) {
        words line[PANELS * NV];
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v)
                __builtin_memcpy(&line[p * NV + v], panel + p * panel_stride + (k * NV + v) * 2 * W, sizeof(words));
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            uint32_t pair;
            __builtin_memcpy(&pair, x + i * x_row + k * x_k, sizeof pair);
#pragma GCC unroll 16
            for (int v = 0; v < PANELS * NV; ++v) acc[i][v] = add_pair_products(acc[i][v], pair, line[v]);
        }
    }
}

// acc[i][v] += sum over k of x[i][k] panel[k][v]
template <class S, int ROWS, int NV, int PANELS>
FASTITER_INLINE void add_product(const S* x, int64_t x_row, const S* panel, int64_t panel_stride, int64_t K,
                                 vec<S> (&acc)[ROWS][PANELS * NV]) {
    if constexpr (side_by_side<S> == 2)
        add_pairs<ROWS, NV, PANELS>(x, x_row, 2, panel, panel_stride, ceil_div(K, 2), acc);
    else
        multiply_add<S, ROWS, NV, PANELS>(x, x_row, 1, panel, panel_stride, K, acc);
}

} // namespace fastiter::FASTITER_LEVEL
