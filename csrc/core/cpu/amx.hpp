// bf16 matrix products on AMX. One instruction multiplies up to 16 rows of 32 numbers by a 32 x 16 tile of the panel.
// It takes as long as loading that tile from its cache, however few the rows are.
#pragma once
#include "core/cpu/simd.hpp"

namespace fastiter::FASTITER_LEVEL {

// Product of rows of bf16 pairs and a packed panel [pair][NV][lane]. out[row][NV] accumulates onto `start` (the same
// for every row), onto its own contents if goes_on, or onto 0. `pairs` is a multiple of kTilePairs.
struct TileProduct {
    const bf16* x;
    int64_t x_row; // row stride, in numbers
    const bf16* panel;
    int64_t pairs;
    vec<float>* out;
    const float* start = nullptr;
    bool goes_on = false;
};

constexpr int kTilePairs = 16, kTileRows = 16;

#if defined(__AMX_BF16__)

template <class S> constexpr bool on_tiles = sizeof(S) == 2;

// The tile registers of a thread. For up to 16 rows, registers 0-3 accumulate the products with up to four vectors. For
// 17 to 32 rows, registers 0-1 accumulate the first 16 rows and 2-3 the rest, two vectors each, so that each loaded
// line of the panel too is multiplied twice. Registers 4-5 hold rows of x, 6-7 lines of the panel. The destructor
// releases them, as a context switch would otherwise save them.
class TileRegisters {
    int rows = 0;

public:
    TileRegisters() = default;
    TileRegisters(const TileRegisters&) = delete;
    ~TileRegisters() {
        if (rows) _tile_release();
    }

    void shape(int for_rows) {
        if (rows == for_rows) return;
        rows = for_rows;
        const int first = rows < kTileRows ? rows : kTileRows, second = rows > kTileRows ? rows - kTileRows : rows;
        const int rows_of[] = {first, first, second, second, first, second, kTilePairs, kTilePairs};
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes_of_row[16] = {};
            uint8_t rows[16] = {};
        } layout;
        for (int i = 0; i < 8; ++i) {
            layout.bytes_of_row[i] = 64;
            layout.rows[i] = uint8_t(rows_of[i]);
        }
        __asm__ volatile("" ::: "memory"); // GCC's intrinsics do not declare that they read memory
        _tile_loadconfig(&layout);
    }
};

// Tile register numbers are immediates of the instruction, hence one line per register. V: number of vectors, starting
// at vector FIRST of the panel and of `out`.
template <int NV, int FIRST, int V> FASTITER_INLINE void start_one(const TileProduct& p) {
    if (p.start || p.goes_on) {
        const float* from = p.start ? p.start + FIRST * 16 : reinterpret_cast<const float*>(p.out + FIRST);
        const int64_t row = p.start ? 0 : NV * 64;
        _tile_loadd(0, from, row);
        if constexpr (V > 1) _tile_loadd(1, from + 16, row);
        if constexpr (V > 2) _tile_loadd(2, from + 32, row);
        if constexpr (V > 3) _tile_loadd(3, from + 48, row);
    } else {
        _tile_zero(0);
        if constexpr (V > 1) _tile_zero(1);
        if constexpr (V > 2) _tile_zero(2);
        if constexpr (V > 3) _tile_zero(3);
    }
}
template <int NV, int V> FASTITER_INLINE void add_to_one(const bf16* x, int64_t x_row, const bf16* panel) {
    _tile_loadd(4, x, x_row * int64_t(sizeof(bf16)));
    _tile_loadd(6, panel, NV * 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (V > 1) {
        _tile_loadd(7, panel + 32, NV * 64);
        _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (V > 2) {
        _tile_loadd(6, panel + 64, NV * 64);
        _tile_dpbf16ps(2, 4, 6);
    }
    if constexpr (V > 3) {
        _tile_loadd(7, panel + 96, NV * 64);
        _tile_dpbf16ps(3, 4, 7);
    }
}
template <int NV, int V> FASTITER_INLINE void store_one(vec<float>* out) {
    _tile_stored(0, out, NV * 64);
    if constexpr (V > 1) _tile_stored(1, out + 1, NV * 64);
    if constexpr (V > 2) _tile_stored(2, out + 2, NV * 64);
    if constexpr (V > 3) _tile_stored(3, out + 3, NV * 64);
}

template <int NV, int FIRST, int V> FASTITER_INLINE void start_two(const TileProduct& p) {
    if (p.start || p.goes_on) {
        const float* from = p.start ? p.start + FIRST * 16 : reinterpret_cast<const float*>(p.out + FIRST);
        const int64_t row = p.start ? 0 : NV * 64, second = p.start ? 0 : kTileRows * NV * 16;
        _tile_loadd(0, from, row);
        _tile_loadd(2, from + second, row);
        if constexpr (V > 1) _tile_loadd(1, from + 16, row);
        if constexpr (V > 1) _tile_loadd(3, from + second + 16, row);
    } else {
        _tile_zero(0);
        _tile_zero(2);
        if constexpr (V > 1) _tile_zero(1);
        if constexpr (V > 1) _tile_zero(3);
    }
}
// Rows of x are loaded with a streaming hint: they come from the second-level cache and should not evict the panel from
// the first.
template <int NV, int V> FASTITER_INLINE void add_to_two(const bf16* x, int64_t x_row, const bf16* panel) {
    _tile_loadd(6, panel, NV * 64);
    _tile_stream_loadd(4, x, x_row * int64_t(sizeof(bf16)));
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (V > 1) {
        _tile_loadd(7, panel + 32, NV * 64);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stream_loadd(5, x + kTileRows * x_row, x_row * int64_t(sizeof(bf16)));
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (V > 1) _tile_dpbf16ps(3, 5, 7);
}
template <int NV, int V> FASTITER_INLINE void store_two(vec<float>* out) {
    _tile_stored(0, out, NV * 64);
    _tile_stored(2, out + kTileRows * NV, NV * 64);
    if constexpr (V > 1) _tile_stored(1, out + 1, NV * 64);
    if constexpr (V > 1) _tile_stored(3, out + kTileRows * NV + 1, NV * 64);
}

// Multiplies V vectors from FIRST on. During the product, calls ask(row) for this call's share of the rows: see
// multiply_tile in rnn/cpu/tile.hpp.
template <bool TWO, int NV, int FIRST, int V, class Ask>
FASTITER_INLINE void multiply_vectors(int rows, const TileProduct& p, Ask ask) {
    if constexpr (TWO)
        start_two<NV, FIRST, V>(p);
    else
        start_one<NV, FIRST, V>(p);
    const int64_t steps = p.pairs / kTilePairs;
    const int end = rows * (FIRST + V) / NV;
    int prefetched = rows * FIRST / NV;
    const int share = end - prefetched, from = prefetched;
    for (int64_t i = 0; i < steps; ++i) {
        for (; (prefetched - from) * steps < (i + 1) * share; ++prefetched) ask(prefetched);
        const bf16 *x = p.x + i * 2 * kTilePairs, *lines = p.panel + (i * kTilePairs * NV + FIRST) * 2 * lanes<float>;
        if constexpr (TWO)
            add_to_two<NV, V>(x, p.x_row, lines);
        else
            add_to_one<NV, V>(x, p.x_row, lines);
    }
    for (; prefetched < end; ++prefetched) ask(prefetched);
    if constexpr (TWO)
        store_two<NV, V>(p.out + FIRST);
    else
        store_one<NV, V>(p.out + FIRST);
}

// Multiplies up to 2 kTileRows rows.
template <int NV, class Ask>
__attribute__((noinline)) void multiply_on_tiles(TileRegisters& registers, int rows, const TileProduct& p, Ask ask) {
    __asm__ volatile("" ::: "memory");
    registers.shape(rows);
    if (rows <= kTileRows) return multiply_vectors<false, NV, 0, NV>(rows, p, ask);
    multiply_vectors<true, NV, 0, (NV < 2 ? NV : 2)>(rows, p, ask);
    if constexpr (NV > 2) multiply_vectors<true, NV, 2, NV - 2>(rows, p, ask);
}

#else

template <class S> constexpr bool on_tiles = false;
struct TileRegisters {};
template <int NV, class Ask> void multiply_on_tiles(TileRegisters&, int rows, const TileProduct&, Ask);

#endif

} // namespace fastiter::FASTITER_LEVEL
