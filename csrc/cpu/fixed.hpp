// What the parts of the fixed-point products share. Rows of a are packed line by line, columns of b in panels: for each k
// the codes of `columns` items side by side.
#pragma once
#include "fixed_assign.hpp"
#include "tile.hpp"

namespace fastiter::FASTITER_LEVEL {

// p[i] assigned for itself, whole vectors
template <class T> using AssignLine = void (*)(T* p, int64_t vectors, const Target<T>&);
// acc += line after line of p, assigned each time; lines of four vectors or of one
template <class T>
using AccumulateLines = void (*)(T* acc, const T* p, int64_t vectors, int64_t count, const Target<T>&);
template <class T> AssignLine<T> assign_line(Round r, Over o);
template <class T> AccumulateLines<T> accumulate_line(Round r, Over o);

// Everything that a tile needs to know of the steps that it takes; what stands after `acc` is for lines() alone.
template <class T> struct StepRules {
    Target<T> acc, product;
    AccumulateLines<T> accumulate = nullptr;
    AssignLine<T> assign_products = nullptr; // nullptr: products have no format of their own
    int product_left = 0;                    // from that format to the accumulator's units
    int64_t every = 1;
};

// acc[row][column] += a[row] times the panel, assigned step by step. Lines of a are a_row apart, those of acc as long as the
// panel is wide.
template <class T>
using TileFunction = void (*)(const T* a, int64_t a_row, const T* panel, int64_t K, T* acc, const StepRules<T>&);

// A way to compute: its function for tiles of `rows` lines and `vectors` vectors of columns, and for one vector.
template <class T> struct Tiles {
    int rows = 1, vectors = 1;
    TileFunction<T> full = nullptr, narrow = nullptr;
};
constexpr int kMostVectors = 4;
constexpr int kMostRows = 6;

Tiles<int16_t> fused16(Round r, Over o, FixedProduct product);
Tiles<int32_t> fused32(Round r, Over o);
Tiles<int32_t> pair_tiles();
template <class T> Tiles<T> lines();

// out[i * padded_K + k] = code << left of items first.. (of `rows`, if there are), zero from K to padded_K
template <class T>
void pack_rows(const FixedCodes& x, const int64_t* rows, int64_t first, int64_t count, int64_t K, int64_t padded_K,
               int left, T* out);
// out[k * columns + n] = code << left of items first.., zero from `count` to `columns`
template <class T>
void pack_panel(const FixedCodes& x, int64_t first, int64_t count, int64_t K, int left, int64_t columns, T* out);
// Two k in each element, the earlier one in the low half
void pack_pairs(const FixedCodes& x, int64_t first, int64_t count, int64_t K, int left, int64_t columns, int32_t* out);

// The low `bytes` of x[i] to place offset + i * step of out
template <class T> void write_line(const T* x, int64_t count, void* out, int bytes, int64_t offset, int64_t step);

size_t matmul_workspace(const FixedMatmul& g, int threads);
void matmul(const FixedMatmul& g, Team team);
void wide_matmul(const FixedMatmul& g, Team team);
void convert(const FixedConvert& c, Team team);
void wide_convert(const FixedConvert& c, Range range);

} // namespace fastiter::FASTITER_LEVEL
