// The register tile that every matrix product here is made of: a few rows times one packed panel.
// A panel holds, for each k, `NV` vectors: panel[k][NV][lanes].
#pragma once
#include "simd.hpp"

namespace fastiter::FASTITER_LEVEL {

// Rows of the tile: as many accumulators as leave registers for a line of the panel (from memory, where there are 16) and a
// broadcast.
template <int NV>
constexpr int tile_rows = kVectorBytes == 64 ? (NV >= 4   ? 6
                                                : NV == 3 ? 8
                                                          : 12)
                                             : (NV >= 4   ? 3
                                                : NV == 3 ? 4
                                                          : 6);

// acc[i][v] += sum over k of x[i][k] panel[k][v], k in increasing order: the sum of one element does not depend on the
// shape of the tile it is computed in. PANELS > 1 runs panels side by side, so that few rows still fill the pipelines.
template <class T, int ROWS, int NV, int PANELS>
FASTITER_INLINE void multiply_add(const T* x, int64_t x_row, int64_t x_k, const T* panel, int64_t panel_stride,
                                  int64_t K, vec<T> (&acc)[ROWS][PANELS * NV]) {
    constexpr int W = lanes<T>;
#pragma GCC unroll 2
    for (int64_t k = 0; k < K; ++k) {
        vec<T> line[PANELS * NV];
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) line[p * NV + v] = load(panel + p * panel_stride + (k * NV + v) * W);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            vec<T> xi = broadcast(x[i * x_row + k * x_k]);
#pragma GCC unroll 16
            for (int v = 0; v < PANELS * NV; ++v) acc[i][v] = fma(xi, line[v], acc[i][v]);
        }
    }
}

// Calls f.template operator()<n>() for the n in 1..MAX that equals `count`.
template <int MAX, class F> FASTITER_INLINE void with_count(int count, F&& f) {
    if constexpr (MAX > 1) {
        if (count < MAX) return with_count<MAX - 1>(count, f);
    }
    f.template operator()<MAX>();
}

// Cuts `total` rows into tiles of at most `most`, as even as possible, and calls f(first, count).
template <class F> FASTITER_INLINE void for_each_tile(int most, int64_t total, F&& f) {
    if (total <= 0) return;
    int64_t tiles = ceil_div(total, most), base = total / tiles, longer = total % tiles, first = 0;
    for (int64_t i = 0; i < tiles; ++i) {
        int count = int(base + (i < longer));
        f(first, count);
        first += count;
    }
}

template <int MAX, class F> FASTITER_INLINE void for_each_tile(int64_t total, F&& f) { for_each_tile(MAX, total, f); }

// [begin, end) of part `index` of `count` as even as possible
struct Range {
    int64_t begin, end;
};
FASTITER_INLINE Range share(int64_t total, int index, int count) {
    return {total * index / count, total * (index + 1) / count};
}

// Calls f(i) for every i of the range, upward at even turns and downward at odd ones: what was used last in one turn is then
// used first in the next, while it is still in the cache.
template <class F> FASTITER_INLINE void back_and_forth(Range range, int64_t turn, F&& f) {
    for (int64_t k = 0; k < range.end - range.begin; ++k) f(turn & 1 ? range.end - 1 - k : range.begin + k);
}

// The same for panels, `size` at a time where that many full ones follow each other: f(first panel, how many).
template <class F>
FASTITER_INLINE void back_and_forth_in_groups(int size, Range range, int64_t full, int64_t turn, F&& f) {
    const int64_t groups = max_of(0, min_of(range.end, full) - range.begin) / size, grouped = groups * size;
    const int64_t single = range.end - range.begin - grouped;
    back_and_forth({0, groups + single}, turn, [&](int64_t i) {
        if (i < groups)
            f(range.begin + i * size, size);
        else
            f(range.begin + grouped + i - groups, 1);
    });
}

} // namespace fastiter::FASTITER_LEVEL
