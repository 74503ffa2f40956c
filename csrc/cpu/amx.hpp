// Products of bf16 on AMX, where an instruction multiplies up to 16 rows of 32 numbers by 32 lines of 16. It takes as long as
// the lines take from their cache, however few the rows are.
#pragma once
#include "simd.hpp"

namespace fastiter::FASTITER_LEVEL {

// Rows of pairs times a panel, [pair][NV][lane]: out[row][NV] is the sums of every row, from `start`, from what it has if it goes
// on, or from 0. Pairs are a multiple of kTilePairs.
struct TileProduct {
    const bf16* x;
    int64_t x_row; // from row to row, in numbers
    const bf16* panel;
    int64_t pairs;
    vec<float>* out;
    const float* start = nullptr;
    bool goes_on = false;
};

constexpr int kTilePairs = 16, kTileRows = 16;

#if defined(__AMX_BF16__)

template <class S> constexpr bool on_tiles = sizeof(S) == 2;

// A thread's tile registers. Up to 16 rows are multiplied by up to four vectors at once, whose sums are 0 to 3. Of more rows, up
// to twice as many, 0 and 1 are the first ones' sums, of two vectors, 2 and 3 the others': then a line of the panel too is
// multiplied twice as often as it is loaded. 4 and 5 hold rows of x, 6 and 7 lines of the panel. Given back in the end: who
// switches threads would have to save them.
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
        for (int i = 0; i < 8; ++i) layout.bytes_of_row[i] = 64, layout.rows[i] = uint8_t(rows_of[i]);
        __asm__ volatile("" ::: "memory"); // GCC's intrinsics do not say that they read memory
        _tile_loadconfig(&layout);
    }
};

// The names of tile registers are part of an instruction's text, hence a line for each. V: vectors from the panel's vector
// FIRST on; of `out` too
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
// Lines of x come from the second-level cache and are not wanted in the first, where the panel is to stay.
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

// V vectors from FIRST on. Calls ask(row) for its share of the rows while the product runs: see multiply_tile of rnn_tile.hpp.
template <bool TWO, int NV, int FIRST, int V, class Ask>
FASTITER_INLINE void multiply_vectors(int rows, const TileProduct& p, Ask ask) {
    if constexpr (TWO)
        start_two<NV, FIRST, V>(p);
    else
        start_one<NV, FIRST, V>(p);
    const int64_t steps = p.pairs / kTilePairs;
    const int end = rows * (FIRST + V) / NV;
    int asked = rows * FIRST / NV;
    const int share = end - asked, from = asked;
    for (int64_t i = 0; i < steps; ++i) {
        for (; (asked - from) * steps < (i + 1) * share; ++asked) ask(asked);
        const bf16 *x = p.x + i * 2 * kTilePairs, *lines = p.panel + (i * kTilePairs * NV + FIRST) * 2 * lanes<float>;
        if constexpr (TWO)
            add_to_two<NV, V>(x, p.x_row, lines);
        else
            add_to_one<NV, V>(x, p.x_row, lines);
    }
    for (; asked < end; ++asked) ask(asked);
    if constexpr (TWO)
        store_two<NV, V>(p.out + FIRST);
    else
        store_one<NV, V>(p.out + FIRST);
}

// Up to 2 kTileRows rows
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
