// Shared by the fixed-point matrix products. Rows of a are packed contiguously; columns of b are packed in panels
// [k][columns].
#pragma once
#include "core/cpu/tile.hpp"
#include "quant/cpu/matmul/fixed_assign.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

// Assigns each p[i] on its own, in whole vectors.
template <class T> using AssignLine = void (*)(T* p, int64_t vectors, const Target<T>&);
// Accumulates the lines of p into acc, assigning after each one; a line is one or four vectors.
template <class T>
using AccumulateLines = void (*)(T* acc, const T* p, int64_t vectors, int64_t count, const Target<T>&);
template <class T> AssignLine<T> assign_line(Rounding r, Overflow o);
template <class T> AccumulateLines<T> accumulate_line(Rounding r, Overflow o);

// Parameters of a tile's steps; those after `acc` are used by lines() only.
template <class T> struct StepRules {
    Target<T> acc, product;
    AccumulateLines<T> accumulate = nullptr;
    AssignLine<T> assign_products = nullptr; // nullptr: products have no format of their own
    int product_left = 0;                    // left shift from that format to the accumulator's units
    int64_t every = 1;
};

// acc[row][column] += a[row] times the panel, assigned step by step. Rows of a have stride a_row; rows of acc are as
// long as the panel is wide.
template <class T>
using TileFunction = void (*)(const T* a, int64_t a_row, const T* panel, int64_t K, T* acc, const StepRules<T>&);

// One implementation: its function for tiles of `rows` rows by `vectors` vectors of columns, and for one vector.
template <class T> struct Tiles {
    int rows = 1, vectors = 1;
    TileFunction<T> full = nullptr, narrow = nullptr;
};
constexpr int kMaxVectors = 4;
constexpr int kMaxRows = 6;

Tiles<int16_t> fused16(Rounding r, Overflow o, FixedProduct product);
Tiles<int32_t> fused32(Rounding r, Overflow o);
Tiles<int32_t> pair_tiles();
template <class T> Tiles<T> lines();

// out[i * padded_K + k] = code << left of item first + i (of `rows`, if not null), zero for K <= k < padded_K
template <class T>
void pack_rows(const FixedCodes& x, const int64_t* rows, int64_t first, int64_t count, int64_t K, int64_t padded_K,
               int left, T* out);
// out[k * columns + n] = code << left of item first + n, zero for count <= n < columns
template <class T>
void pack_panel(const FixedCodes& x, int64_t first, int64_t count, int64_t K, int left, int64_t columns, T* out);
// As pack_panel, with two consecutive k in each element, the earlier one in the low half
void pack_pairs(const FixedCodes& x, int64_t first, int64_t count, int64_t K, int left, int64_t columns, int32_t* out);

// Writes the low `bytes` of x[i] to element offset + i * step of out.
template <class T> void write_line(const T* x, int64_t count, void* out, int bytes, int64_t offset, int64_t step);

size_t matmul_workspace(const FixedMatmul& g, int threads);
void matmul(const FixedMatmul& g, Team team);
void wide_matmul(const FixedMatmul& g, Team team);
void convert(const FixedConvert& c, Team team);
void wide_convert(const FixedConvert& c, Range range);

} // namespace fastiter::quant::FASTITER_LEVEL
