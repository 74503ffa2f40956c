// Shared by the kernels of relaxation: real and complex numbers, and tiles of right-hand sides.
#pragma once
#include "core/cpu/simd.hpp"
#include "relax/cpu/kernels.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

FASTITER_INLINE double wide(float x) { return double(x); }
FASTITER_INLINE double wide(double x) { return x; }
FASTITER_INLINE Complex wide(Complex x) { return x; }
FASTITER_INLINE void assign(float& to, double x) { to = float(x); }
FASTITER_INLINE void assign(double& to, double x) { to = x; }
FASTITER_INLINE void assign(Complex& to, Complex x) { to = x; }

FASTITER_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
FASTITER_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
FASTITER_INLINE Complex operator*(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
FASTITER_INLINE Complex operator*(double a, Complex b) { return {a * b.re, a * b.im}; }
FASTITER_INLINE bool is_zero(double x) { return x == 0; }
FASTITER_INLINE bool is_zero(Complex x) { return x.re == 0 && x.im == 0; }
FASTITER_INLINE double square(double x) { return x * x; }
FASTITER_INLINE double square(Complex x) { return x.re * x.re + x.im * x.im; }
FASTITER_INLINE double conjugate(double x) { return x; }
FASTITER_INLINE Complex conjugate(Complex x) { return {x.re, -x.im}; }

// Updates one number of y from z: the formula at the head of kernels.hpp.
template <class V> FASTITER_INLINE void relax_one(const RelaxStep<V>& s, int64_t at, sum_of<V> z) {
    const double keep = 1 - s.omega;
    if (s.d) {
        const sum_of<V> d = s.momentum * wide(s.d[at]) + s.omega * (z - wide(s.x[at]));
        assign(s.d[at], d);
        assign(s.y[at], wide(s.x[at]) + d);
    } else if (keep != 0)
        assign(s.y[at], keep * wide(s.x[at]) + s.omega * z);
    else
        assign(s.y[at], z);
}

// All pairs of the matrix's and the vectors' number type
#define FASTITER_RELAX_NUMBERS(DO) DO(float, float) DO(float, double) DO(double, double) DO(Complex, Complex)

// Calls f<K>(column) for tiles of 8, 4, 2 and 1 columns, so that each read of the matrix serves as many columns as
// possible.
template <class F> FASTITER_INLINE void for_tiles(int64_t column, int64_t columns, F f) {
    for (; columns >= 8; column += 8, columns -= 8) f.template operator()<8>(column);
    if (columns >= 4) {
        f.template operator()<4>(column);
        column += 4;
        columns -= 4;
    }
    if (columns >= 2) {
        f.template operator()<2>(column);
        column += 2;
        columns -= 2;
    }
    if (columns >= 1) f.template operator()<1>(column);
}

// Calls f(begin, end) for blocks of [first, last), from the end if backward. Blocks are short if the columns form
// several tiles, so that the data of one tile is in cache for the next. A tile of 8 of 16 columns uses half of every
// pair of cache lines.
template <class F> FASTITER_INLINE void for_blocks(int64_t first, int64_t last, bool backward, int64_t columns, F f) {
    constexpr int64_t kRows = 4; // 16 columns, coloured: blocks of 32 rows take 1.4 times as long
    const int64_t limit = columns > 8 ? kRows : last - first;
    for (int64_t done = 0; done < last - first; done += limit) {
        const int64_t count = min_of(limit, last - first - done), begin = backward ? last - done - count : first + done;
        f(begin, begin + count);
    }
}

// A chunk's part of the norms of K columns, and its residuals if requested
template <class V, int K> struct ChunkResidual {
    const RelaxResidual<V>& s;
    int64_t chunk, column;
    double norm[K] = {};
    FASTITER_INLINE void add(int64_t row, const sum_of<V>* sum) {
        for (int c = 0; c < K; ++c) {
            norm[c] += square(sum[c]);
            if (s.r) assign(s.r[row * s.k + column + c], sum[c]);
        }
    }
    FASTITER_INLINE void store() const {
        for (int c = 0; c < K; ++c) s.norms[chunk * s.k + column + c] = norm[c];
    }
};

// The kernels declared in kernels.hpp
template <class A, class V>
void sweep_csr(const CsrMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
               int64_t columns);
template <class A, class V>
void residual_csr(const CsrMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V> void sweep_sell(const SellMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last);
template <class A, class V>
void residual_sell(const SellMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V>
void sweep_bsr(const BsrMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
               int64_t columns);
template <class A, class V>
void residual_bsr(const BsrMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V>
void sweep_dense(const DenseMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                 int64_t columns);
template <class A, class V>
void residual_dense(const DenseMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V>
void sweep_kaczmarz(const KaczmarzMatrix<A, V>&, const RelaxStep<V>&, int64_t column, int64_t columns);
template <class A, class V>
void residual_kaczmarz(const KaczmarzMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);

} // namespace fastiter::relax::FASTITER_LEVEL
