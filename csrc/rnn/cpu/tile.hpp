// The product tile of the recurrences, shared by all cells, which call it and read its sums from memory.
#pragma once
#include "core/cpu/product.hpp"
#include "rnn/cpu/kernels.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

// Addresses that a product prefetches while it runs: for each of its rows, `bytes` from each of `count` addresses on.
struct Fetch {
    const void* const* at;
    int stride, count, bytes; // stride: between the address lists of consecutive rows

    FASTITER_INLINE void row(int i) const {
        for (int j = 0; j < count; ++j) prefetch<2>(static_cast<const char*>(at[i * stride + j]), bytes);
    }
};

// Up to COUNT addresses for each of up to ROWS rows
template <int ROWS, int COUNT> struct Addresses {
    const void* at[ROWS][COUNT];
    const int rows;
    int count = 0;

    explicit Addresses(int rows_) : rows(rows_) {}
    template <class F> FASTITER_INLINE void add(F address_of_row) {
        for (int i = 0; i < rows; ++i) at[i][count] = address_of_row(i);
        ++count;
    }
    Fetch fetch(int bytes) const { return {at[0], COUNT, count, bytes}; }
};

// Product of rows of x and consecutive panels of r with `nv` vectors each: out[row][panel][vector]. The sums of every
// row start from `start`, or from 0.
template <class S> struct Product {
    using V = vec<accumulate_t<S>>;
    const S* x;
    int64_t x_row;
    const S* panel;
    int64_t panel_stride, K;
    const accumulate_t<S>* start; // panel by panel
    V* out;
    Fetch fetch;
};

// Splits k into ROWS parts and prefetches one row's addresses before each part: prefetching all at once would delay the
// loads of the panel, while a few at a time arrive as the product runs.
template <class S, int ROWS, int NV, int PANELS> __attribute__((noinline)) void multiply_tile(const Product<S>& p) {
    using V = vec<accumulate_t<S>>;
    V acc[ROWS][PANELS * NV];
#pragma GCC unroll 16
    for (int v = 0; v < PANELS * NV; ++v) {
        const V start = p.start ? load(p.start + v * lanes<S>) : V{};
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) acc[i][v] = start;
    }
    const int64_t part = round_up(ceil_div(p.K, ROWS), side_by_side<S>);
    for (int i = 0; i < ROWS; ++i) {
        const int64_t k = min_of(p.K, i * part);
        p.fetch.row(i);
        add_product<S, ROWS, NV, PANELS>(p.x + k, p.x_row, p.panel + k * NV * lanes<S>, p.panel_stride,
                                         min_of(part, p.K - k), acc);
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < PANELS * NV; ++v) p.out[i * PANELS * NV + v] = acc[i][v];
}

// Rows per tile, at most `largest`. Twice the rows of a register tile halve the loads of the panel; if the panel is
// short, it matters more that the sums between product and cells stay in the first-level cache.
template <class S> int tile_rows_of(int largest, int64_t K) {
    constexpr int64_t kLongPanel = 128;
    return on_tiles<S> && K <= kLongPanel ? kTileRows : largest;
}

// Number of panels that a single row processes at once: enough independent sums, or cells, to hide the latency of one
template <class S> constexpr int panels_of_one_row(int nv) { return on_tiles<S> || nv == 3 ? 4 : 2; }

// The product of `rows` <= rows_of_tile<S, nv> rows and `panels` panels: one, or for a single row panels_of_one_row if
// they have at least three vectors, as full panels do.
template <class S> void multiply(TileRegisters& registers, int rows, int nv, int panels, const Product<S>& p) {
    with_count<4>(nv, [&]<int NV>() {
        if constexpr (on_tiles<S>) {
            for (int i = 0; i < panels; ++i) {
                const TileProduct product{p.x,
                                          p.x_row,
                                          p.panel + i * p.panel_stride,
                                          panel_depth<S>(p.K) / 2,
                                          p.out + i * NV,
                                          p.start ? p.start + i * NV * lanes<S> : nullptr};
                multiply_on_tiles<NV>(registers, rows, product, [&](int row) {
                    if (i == 0) p.fetch.row(row);
                });
            }
        } else {
            constexpr int P = panels_of_one_row<S>(NV);
            if (NV >= 3 && panels == P) return multiply_tile<S, 1, NV, P>(p);
            with_count<tile_rows<NV>>(rows, [&]<int ROWS>() { multiply_tile<S, ROWS, NV, 1>(p); });
        }
    });
}

} // namespace fastiter::rnn::FASTITER_LEVEL
