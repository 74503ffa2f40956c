// Small matrix products on cached matrices whose rows are whole vectors, for the chunks of the delta rule.
#pragma once
#include "core/cpu/simd.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(delta)

namespace fastiter::delta::FASTITER_LEVEL {

// Number of terms in the sum of row i: all, or as many as causality allows, i * times + plus or i / over + plus.
// Further terms are skipped, not multiplied by zero, so that a NaN among them does not spread.
struct Terms {
    int64_t all = 0, times = 0, over = 1, plus = INT64_MAX;
    int64_t of(int64_t i) const {
        if (times == 0) return all;
        return min_of(all, (over == 1 ? i * times : i / over) + plus);
    }
};

// Element (i, k) at data[i * row + k * column]. Negative strides traverse a matrix from its end, which turns sums over
// later items into sums over earlier ones.
template <class T> struct Matrix {
    T* data = nullptr;
    int64_t row = 0, column = 1;
};

// c = keep * from + x p. c, from (may alias c; null = 0) and p have rows of `vectors` vectors.
template <class T> struct Product {
    Matrix<T> c;
    Matrix<const T> from = {};
    T keep = 1;
    Matrix<const T> x, p;
    int64_t rows = 0, vectors = 0;
    Terms terms;
};
template <class T> void multiply(const Product<T>& a);

// Forward substitution of a triangular system, row by row:  c[i] += sum over k < i of x[i][k] p[k],  p[i] = scale[i]
// c[i].
template <class T> struct Substitution {
    Matrix<T> c, p;
    Matrix<const T> x;
    Matrix<const T> scale; // one column
    int64_t rows = 0, vectors = 0;
};
template <class T> void substitute(const Substitution<T>& a);

// out[c][r] = x[r][c]; rows of out are zero-padded to whole vectors.
template <class T>
void transpose_lines(const T* x, int64_t x_row, int64_t rows, int64_t columns, T* out, int64_t out_row);

// out[i] = sum over columns of a[i][c] b[i][c], for whole vectors of i. Both have `columns` columns; rows of a are
// padded to whole vectors.
template <class T>
void row_dots(const T* a, int64_t a_row, const T* b, int64_t b_row, int64_t rows, int64_t columns, T* out);

} // namespace fastiter::delta::FASTITER_LEVEL
