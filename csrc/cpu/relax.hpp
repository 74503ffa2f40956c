// What the kernels of relaxation share: numbers, real and complex, and tiles of right-hand sides.
#pragma once
#include "relax_kernels.hpp"
#include "simd.hpp"

namespace fastiter::FASTITER_LEVEL {

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

// One number of y from z: the formula at the head of relax_kernels.hpp.
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

// Vectors of 2, 4 and 8 doubles, of doubles anywhere in memory, and of as many floats
template <int Width> struct few;
#define FASTITER_FEW(WIDTH)                                                           \
    template <> struct few<WIDTH> {                                                   \
        typedef double type __attribute__((vector_size(8 * WIDTH)));                  \
        typedef double unaligned __attribute__((vector_size(8 * WIDTH), aligned(8))); \
        typedef float halves __attribute__((vector_size(4 * WIDTH), aligned(4)));     \
    };
FASTITER_FEW(2)
FASTITER_FEW(4)
FASTITER_FEW(8)

// K sums as vectors, which a compiler does not make of an array that lives through a loop. K: 2, 4 or 8
template <int K> struct Parts {
    static constexpr int width = K < lanes<double> ? K : lanes<double>, count = K / width;
    typedef typename few<width>::type type;
    typedef typename few<width>::unaligned unaligned;
    typedef typename few<width>::halves halves;

    type part[count];
    FASTITER_INLINE static type read(const double* p) { return *reinterpret_cast<const unaligned*>(p); }
    FASTITER_INLINE static type read(const float* p) {
        return __builtin_convertvector(*reinterpret_cast<const halves*>(p), type);
    }
    FASTITER_INLINE explicit Parts(const double* sums) {
        for (int i = 0; i < count; ++i) part[i] = read(sums + i * width);
    }
    // minus a x for one a, and for an a of each column
    template <class V> FASTITER_INLINE void subtract(double a, const V* x) {
        for (int i = 0; i < count; ++i) part[i] -= a * read(x + i * width);
    }
    template <class A, class V> FASTITER_INLINE void subtract(const A* a, const V* x) {
        for (int i = 0; i < count; ++i) part[i] -= read(a + i * width) * read(x + i * width);
    }
    FASTITER_INLINE void store(double* sums) const {
        for (int i = 0; i < count; ++i) *reinterpret_cast<unaligned*>(sums + i * width) = part[i];
    }
};
template <class V, int K> constexpr bool in_parts = sizeof(V) < 16 && (K == 2 || K == 4 || K == 8);

// Every pair of the numbers that matrices are stored in and vectors are
#define FASTITER_RELAX_NUMBERS(DO) DO(float, float) DO(float, double) DO(double, double) DO(Complex, Complex)

// Calls f<K>(column) for tiles of 8, 4, 2 and 1 columns, so that the matrix is read once for as many as possible.
template <class F> FASTITER_INLINE void for_tiles(int64_t column, int64_t columns, F f) {
    for (; columns >= 8; column += 8, columns -= 8) f.template operator()<8>(column);
    if (columns >= 4) f.template operator()<4>(column), column += 4, columns -= 4;
    if (columns >= 2) f.template operator()<2>(column), column += 2, columns -= 2;
    if (columns >= 1) f.template operator()<1>(column);
}

// A chunk's part of the norms of K columns, and its residuals where they are wanted
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

// The kernels, as relax_kernels.hpp says
template <class A, class V>
void relax_rows(const RelaxRows<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                int64_t columns);
template <class A, class V>
void relax_rows_residual(const RelaxRows<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V>
void relax_slices(const RelaxSlices<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last);
template <class A, class V>
void relax_slices_residual(const RelaxSlices<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V>
void relax_blocks(const RelaxBlocks<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                  int64_t columns);
template <class A, class V>
void relax_blocks_residual(const RelaxBlocks<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V>
void relax_dense(const RelaxDense<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                 int64_t columns);
template <class A, class V>
void relax_dense_residual(const RelaxDense<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
template <class A, class V>
void relax_projections(const RelaxProjections<A, V>&, const RelaxStep<V>&, int64_t column, int64_t columns);
template <class A, class V>
void relax_projections_residual(const RelaxProjections<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);

} // namespace fastiter::FASTITER_LEVEL
