// The register tile of all matrix products here: a few rows times one packed panel. A panel holds `NV` vectors for each
// k: panel[k][NV][lanes].
#pragma once
#include "core/cpu/simd.hpp"
#include "core/cpu/team.hpp"

namespace fastiter::FASTITER_LEVEL {

// Rows of the tile: as many accumulators as leave registers for a line of the panel (with 16 registers, it is read from
// memory) and a broadcast.
template <int NV>
constexpr int tile_rows = kVectorBytes == 64 ? (NV >= 4   ? 6
                                                : NV == 3 ? 8
                                                          : 12)
                                             : (NV >= 4   ? 3
                                                : NV == 3 ? 4
                                                          : 6);

// acc[i][v] += sum over k of x[i][k] panel[k][v], in increasing k, so that the sum of an element does not depend on the
// tile's shape. PANELS > 1 multiplies several panels at once, so that few rows still fill the pipelines.
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

// Calls f.template operator()<n>() with n = `count`, for 1 <= count <= MAX.
template <int MAX, class F> FASTITER_INLINE void with_count(int count, F&& f) {
    if constexpr (MAX > 1) {
        if (count < MAX) return with_count<MAX - 1>(count, f);
    }
    f.template operator()<MAX>();
}

// Splits `total` rows into tiles of at most `largest`, as even as possible, and calls f(first, count).
template <class F> FASTITER_INLINE void for_each_tile(int largest, int64_t total, F&& f) {
    if (total <= 0) return;
    int64_t tiles = ceil_div(total, largest), base = total / tiles, longer = total % tiles, first = 0;
    for (int64_t i = 0; i < tiles; ++i) {
        int count = int(base + (i < longer));
        f(first, count);
        first += count;
    }
}

template <int MAX, class F> FASTITER_INLINE void for_each_tile(int64_t total, F&& f) { for_each_tile(MAX, total, f); }

// Zigzag loop: calls f(i) for every i of the range, ascending in even turns and descending in odd ones, so that the
// data used last in one turn is used first in the next, while still in cache.
template <class F> FASTITER_INLINE void zigzag(Range range, int64_t turn, F&& f) {
    for (int64_t k = 0; k < range.end - range.begin; ++k) f(turn & 1 ? range.end - 1 - k : range.begin + k);
}

// The same for groups of `size` panels as long as they are full, then single panels: f(first panel, count).
template <class F> FASTITER_INLINE void zigzag_in_groups(int size, Range range, int64_t full, int64_t turn, F&& f) {
    const int64_t groups = max_of(0, min_of(range.end, full) - range.begin) / size, grouped = groups * size;
    const int64_t single = range.end - range.begin - grouped;
    zigzag({0, groups + single}, turn, [&](int64_t i) {
        if (i < groups)
            f(range.begin + i * size, size);
        else
            f(range.begin + grouped + i - groups, 1);
    });
}

} // namespace fastiter::FASTITER_LEVEL
