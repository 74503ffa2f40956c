// Products of bf16 on AMX, where an instruction multiplies up to 16 rows of 32 numbers by 32 lines of 16. It takes as long as
// the lines take from their cache, however few the rows are.
#pragma once
#include "simd.hpp"

namespace fastiter::FASTITER_LEVEL {

// Rows of pairs times a panel, [pair][NV][lane], to which the sums of every row start from `start`, or from 0: out[row][NV]
struct TileProduct {
    const bf16* x;
    int64_t x_row; // from row to row, in numbers
    const bf16* panel;
    int64_t pairs;
    const float* start;
    vec<float>* out;
};

// Two times as many rows and up to two vectors, for products that are large: a line of x is then multiplied twice as often as
// it is loaded, and so is one of the panel. The sums go on from what `sums` has, [row][NV]. Pairs are a multiple of 16.
struct BlockProduct {
    const bf16* x;
    int64_t x_row;
    const bf16* panel;
    int64_t pairs;
    bool goes_on;
    vec<float>* sums;
};

#if defined(__AMX_BF16__)

template <class S> constexpr bool on_tiles = sizeof(S) == 2;

// A thread's tile registers: 0 to 3 hold sums. Of a TileProduct, 4 has rows of x, 5 pairs of lines of a panel; 6 and 7 are as
// 4 and 5 for the pairs that are left over. Of a BlockProduct, 4 and 5 have rows of x, 6 and 7 lines of a panel. Given back in
// the end: who switches threads would have to save them.
class TileRegisters {
    struct alignas(64) Layout {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes_of_row[16] = {};
        uint8_t rows[16] = {};
    };
    static constexpr int kOfBlock = -1;
    int rows = 0, rest = 0;

    bool has(int for_rows, int for_rest) {
        if (rows == for_rows && rest == for_rest) return true;
        rows = for_rows, rest = for_rest;
        return false;
    }
    static void load(const Layout& layout) {
        __asm__ volatile("" ::: "memory"); // GCC's intrinsics do not say that they read memory
        _tile_loadconfig(&layout);
    }

public:
    static constexpr int kPairs = 16;

    TileRegisters() = default;
    TileRegisters(const TileRegisters&) = delete;
    ~TileRegisters() {
        if (rows) _tile_release();
    }

    void shape(int for_rows, int64_t pairs) {
        const int left = int(pairs % kPairs);
        if (has(for_rows, left)) return;
        Layout layout;
        for (int i = 0; i < 8; ++i) layout.bytes_of_row[i] = 64, layout.rows[i] = uint8_t(i == 5 ? kPairs : rows);
        layout.rows[7] = uint8_t(rest ? rest : kPairs);
        layout.bytes_of_row[6] = uint16_t(4 * layout.rows[7]);
        load(layout);
    }

    // For up to 32 rows
    void shape_block(int for_rows) {
        if (has(for_rows, kOfBlock)) return;
        const int first = rows < 16 ? rows : 16, second = rows > 16 ? rows - 16 : 1;
        const int rows_of[] = {first, first, second, second, first, second, kPairs, kPairs};
        Layout layout;
        for (int i = 0; i < 8; ++i) layout.bytes_of_row[i] = 64, layout.rows[i] = uint8_t(rows_of[i]);
        load(layout);
    }
};

// The names of tile registers are part of an instruction's text, hence a line for each vector.
template <int NV> FASTITER_INLINE void start_sums(const float* start) {
    if (start) {
        _tile_loadd(0, start, 0);
        if constexpr (NV > 1) _tile_loadd(1, start + 16, 0);
        if constexpr (NV > 2) _tile_loadd(2, start + 32, 0);
        if constexpr (NV > 3) _tile_loadd(3, start + 48, 0);
    } else {
        _tile_zero(0);
        if constexpr (NV > 1) _tile_zero(1);
        if constexpr (NV > 2) _tile_zero(2);
        if constexpr (NV > 3) _tile_zero(3);
    }
}

#define FASTITER_ADD_TO_SUM(v, rows, lines)          \
    if constexpr (NV > v) {                          \
        _tile_loadd(lines, panel + v * 32, NV * 64); \
        _tile_dpbf16ps(v, rows, lines);              \
    }
#define FASTITER_ADD_TO_SUMS(rows, lines)               \
    _tile_loadd(rows, x, x_row* int64_t(sizeof(bf16))); \
    FASTITER_ADD_TO_SUM(0, rows, lines)                 \
    FASTITER_ADD_TO_SUM(1, rows, lines)                 \
    FASTITER_ADD_TO_SUM(2, rows, lines)                 \
    FASTITER_ADD_TO_SUM(3, rows, lines)

template <int NV> FASTITER_INLINE void add_to_sums(const bf16* x, int64_t x_row, const bf16* panel) {
    FASTITER_ADD_TO_SUMS(4, 5)
}
template <int NV> FASTITER_INLINE void add_rest_to_sums(const bf16* x, int64_t x_row, const bf16* panel) {
    FASTITER_ADD_TO_SUMS(6, 7)
}
#undef FASTITER_ADD_TO_SUMS
#undef FASTITER_ADD_TO_SUM

template <int NV> FASTITER_INLINE void store_sums(vec<float>* out) {
    _tile_stored(0, out, NV * 64);
    if constexpr (NV > 1) _tile_stored(1, out + 1, NV * 64);
    if constexpr (NV > 2) _tile_stored(2, out + 2, NV * 64);
    if constexpr (NV > 3) _tile_stored(3, out + 3, NV * 64);
}

// Calls ask(row) for each row while the product runs: see multiply_tile of rnn_tile.hpp.
template <int NV, class Ask>
__attribute__((noinline)) void multiply_on_tiles(TileRegisters& registers, int rows, const TileProduct& p, Ask ask) {
    constexpr int64_t kPairs = TileRegisters::kPairs;
    __asm__ volatile("" ::: "memory");
    registers.shape(rows, p.pairs);
    start_sums<NV>(p.start);
    const int64_t whole = p.pairs / kPairs;
    int asked = 0;
    for (int64_t i = 0; i < whole; ++i) {
        for (; asked * whole < (i + 1) * rows; ++asked) ask(asked);
        add_to_sums<NV>(p.x + i * 2 * kPairs, p.x_row, p.panel + i * 2 * kPairs * NV * lanes<float>);
    }
    for (; asked < rows; ++asked) ask(asked);
    if (p.pairs % kPairs)
        add_rest_to_sums<NV>(p.x + whole * 2 * kPairs, p.x_row, p.panel + whole * 2 * kPairs * NV * lanes<float>);
    store_sums<NV>(p.out);
}

template <int NV, bool SECOND> FASTITER_INLINE void load_block(const vec<float>* sums) {
    _tile_loadd(0, sums, NV * 64);
    if constexpr (NV > 1) _tile_loadd(1, sums + 1, NV * 64);
    if constexpr (SECOND) _tile_loadd(2, sums + 16 * NV, NV * 64);
    if constexpr (NV > 1 && SECOND) _tile_loadd(3, sums + 16 * NV + 1, NV * 64);
}
template <int NV, bool SECOND> FASTITER_INLINE void store_block(vec<float>* sums) {
    _tile_stored(0, sums, NV * 64);
    if constexpr (NV > 1) _tile_stored(1, sums + 1, NV * 64);
    if constexpr (SECOND) _tile_stored(2, sums + 16 * NV, NV * 64);
    if constexpr (NV > 1 && SECOND) _tile_stored(3, sums + 16 * NV + 1, NV * 64);
}

// Lines of x come from the second-level cache and are not wanted in the first, where the panel is to stay.
template <int NV, bool SECOND> FASTITER_INLINE void add_to_block(const bf16* x, int64_t x_row, const bf16* panel) {
    _tile_loadd(6, panel, NV * 64);
    _tile_stream_loadd(4, x, x_row * int64_t(sizeof(bf16)));
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (NV > 1) {
        _tile_loadd(7, panel + 32, NV * 64);
        _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (SECOND) {
        _tile_stream_loadd(5, x + 16 * x_row, x_row * int64_t(sizeof(bf16)));
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (NV > 1) _tile_dpbf16ps(3, 5, 7);
    }
}

template <int NV, bool SECOND> __attribute__((noinline)) void multiply_block(const BlockProduct& p) {
    __asm__ volatile("" ::: "memory");
    if (p.goes_on)
        load_block<NV, SECOND>(p.sums);
    else
        start_sums<4>(nullptr);
    for (int64_t k = 0; k < p.pairs; k += TileRegisters::kPairs)
        add_to_block<NV, SECOND>(p.x + 2 * k, p.x_row, p.panel + 2 * k * NV * lanes<float>);
    store_block<NV, SECOND>(p.sums);
}

// Up to 32 rows
template <int NV> void multiply_block(TileRegisters& registers, int rows, const BlockProduct& p) {
    registers.shape_block(rows);
    if (rows > 16)
        multiply_block<NV, true>(p);
    else
        multiply_block<NV, false>(p);
}

#else

template <class S> constexpr bool on_tiles = false;
struct TileRegisters {};
template <int NV> void multiply_block(TileRegisters&, int rows, const BlockProduct&);
template <int NV, class Ask> void multiply_on_tiles(TileRegisters&, int rows, const TileProduct&, Ask);

#endif

} // namespace fastiter::FASTITER_LEVEL
