// Sweeps of relaxation over A x = b, and residuals. With z_i = (b_i - sum over j != i of a_ij x_j) / a_ii:
//
//   y_i = (1 - omega) x_i + omega z_i          Gauss-Seidel, SOR: y is x, row after row; Jacobi: y is other memory
//   d_i = momentum d_i + omega (z_i - x_i), y_i = x_i + d_i                                  Chebyshev on Jacobi
//
// x, b, y (n, k), contiguous: k right-hand sides. A is stored as A, the vectors as V, and sums are taken in sum_of<V>.
// Sums run in the order in which the entries are stored and fuse nothing, so that every instruction set and any number
// of threads have the same bits. Diagonal entries are not among the entries.
#pragma once
#include "team.hpp"

namespace fastiter {

struct Complex {
    double re, im;
};

template <class V> struct sum_type {
    typedef double type;
};
template <> struct sum_type<Complex> {
    typedef Complex type;
};
template <class V> using sum_of = typename sum_type<V>::type;

constexpr int kSliceRows = 8;     // rows whose entries are interleaved
constexpr int kChunkRows = 512;   // rows that share a partial sum of a norm
constexpr int kMaxBlockSize = 64; // of block methods

template <class V> struct RelaxStep {
    const V* b = nullptr;
    const V* x = nullptr;
    V* y = nullptr;
    V* d = nullptr; // null: no momentum
    int64_t k = 1;
    double omega = 1, momentum = 0;
    bool backward = false;
};

// r = b - A x where r is not null; norms (chunks, k) gets the sums of |r|^2 over the rows of each chunk.
template <class V> struct RelaxResidual {
    const V* b = nullptr;
    const V* x = nullptr;
    V* r = nullptr;
    int64_t k = 1;
    double* norms = nullptr;
};

// Rows one after the other in clusters of consecutive rows. Clusters of one colour are not linked. Of each row the entries
// of the neighbours i - 1 and i + 1 are apart where these are in the same cluster, as x of the row before is the one number
// that a row has to wait for. Entry 0: there is none.
template <class A, class V> struct RelaxRows {
    int64_t n = 0;
    const int64_t* cluster_row = nullptr;   // (clusters + 1) first row of each
    const int64_t* cluster_entry = nullptr; // (clusters + 1) its first entry
    const int64_t* chunk_entry = nullptr;   // (chunks + 1) the first entry of each chunk of rows
    const int32_t* length = nullptr;        // (n)
    const int32_t* column = nullptr;
    const A* value = nullptr; // a batch of k matrices: (entries, k), and so are the next four
    const A* before = nullptr;
    const A* after = nullptr;
    const A* diagonal = nullptr;
    const sum_of<V>* inverse = nullptr; // 1 / diagonal
    bool batched = false;
};

// Slices of 8 rows with as many entries each: entry j of row i of a slice is at (start + j) * 8 + i. A row with fewer
// repeats its first column with the value 0. The columns of the 8 entries j are run[start + j] and those after it, as they
// nearly always are on a grid, or, where that is negative, column[~run * 8 + i].
template <class A, class V> struct RelaxSlices {
    int64_t n = 0;                  // the last slice may have fewer rows
    const int64_t* start = nullptr; // (slices + 1)
    const int32_t* run = nullptr;
    const int32_t* column = nullptr;
    const A* value = nullptr;
    const A* diagonal = nullptr;
    const sum_of<V>* inverse = nullptr;
};

// Rows of blocks, each block stored by columns; clusters of consecutive rows as above. x has `size` numbers a row. A batch of k
// matrices: each number of a block is k.
template <class A, class V> struct RelaxBlocks {
    int64_t n = 0; // rows of blocks
    int size = 1;
    const int64_t* cluster_row = nullptr;
    const int64_t* start = nullptr; // (n + 1) first block of each row
    const int32_t* column = nullptr;
    const A* value = nullptr;
    const A* diagonal = nullptr;        // (n, size, size)
    const sum_of<V>* inverse = nullptr; // (n, size, size) of the diagonal blocks
    bool batched = false;
};

// A (n, n) by rows, all of it, the diagonal included; `order` null: from first to last.
template <class A, class V> struct RelaxDense {
    int64_t n = 0;
    const A* value = nullptr;
    const int32_t* order = nullptr;
    const sum_of<V>* inverse = nullptr;
};

// x += omega (b_i - a_i x) conj(a_i) / |a_i|^2 for every row in order; x (columns, k).
template <class A, class V> struct RelaxProjections {
    int64_t n = 0;
    const int64_t* start = nullptr; // (n + 1)
    const int32_t* column = nullptr;
    const A* value = nullptr;
    const double* inverse = nullptr; // 1 / |a_i|^2, 0 for a row of zeros
    // A batch of k matrices: value is (entries, k), and this (n, k) instead of inverse, in both parts of a complex number
    const sum_of<V>* inverses = nullptr;
};

// Every range is [first, last): clusters, slices, rows, or chunks of rows; columns of x: [column, column + columns).
template <class A, class V> struct RelaxKernelsOf {
    void (*rows)(const RelaxRows<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                 int64_t columns);
    void (*rows_residual)(const RelaxRows<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*slices)(const RelaxSlices<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last);
    void (*slices_residual)(const RelaxSlices<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*blocks)(const RelaxBlocks<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                   int64_t columns);
    void (*blocks_residual)(const RelaxBlocks<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*dense)(const RelaxDense<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                  int64_t columns);
    void (*dense_residual)(const RelaxDense<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*projections)(const RelaxProjections<A, V>&, const RelaxStep<V>&, int64_t column, int64_t columns);
    void (*projections_residual)(const RelaxProjections<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
};

// A 5-point stencil on a grid (n0, 1, n2), or a 7-point one on (n0, n1, n2), n2 lying next to each other; x is 0 outside.
// Coefficients: of the point itself, of the one before and the one after along axis 0, 1 and 2; a single number each, or one
// for each point. Where `inverse`, 1 / the first, is 0, x is given: it is not changed, and has no equation.
template <class T> struct RelaxStencil {
    int64_t n0 = 0, n1 = 1, n2 = 0;
    const T* coefficient[7] = {};
    bool is_constant = true;
    const T* inverse = nullptr; // null: constant_inverse everywhere
    T constant_inverse{};       // of constant coefficients
    const T* zeros = nullptr;   // (n2)
};

// All arithmetic is in T, with products fused to sums where the machine has that. Planes are those of axis 0; colours those of a chessboard.
template <class T> struct RelaxStencilKernelsOf {
    // columns [first, last) of one plane, the points whose indices and colour have an even sum
    void (*half)(const RelaxStencil<T>&, const RelaxStep<T>&, int64_t plane, int64_t colour, int64_t first,
                 int64_t last);
    void (*whole)(const RelaxStencil<T>&, const RelaxStep<T>&, int64_t first, int64_t last); // Jacobi, Chebyshev
    void (*natural)(const RelaxStencil<T>&, const RelaxStep<T>&);
    void (*listed)(const RelaxStencil<T>&, const RelaxStep<T>&, const int32_t* points, int64_t first, int64_t last);
    // Kaczmarz: x += omega (b_i - a_i x) conj(a_i) / |a_i|^2 where x is not given; points null: in natural order
    void (*projections)(const RelaxStencil<T>&, const RelaxStep<T>&, const int32_t* points);
    void (*residual)(const RelaxStencil<T>&, const RelaxResidual<T>&, int64_t first, int64_t last); // norms (n0)
};

struct RelaxStencilKernels {
    RelaxStencilKernelsOf<float> f32;
    RelaxStencilKernelsOf<double> f64;
    RelaxStencilKernelsOf<Complex> c128;
    template <class T> const RelaxStencilKernelsOf<T>& of() const {
        if constexpr (sizeof(T) == 4)
            return f32;
        else if constexpr (sizeof(T) == 8)
            return f64;
        else
            return c128;
    }
};

struct RelaxKernels {
    RelaxKernelsOf<float, float> f32;
    RelaxKernelsOf<float, double> mixed;
    RelaxKernelsOf<double, double> f64;
    RelaxKernelsOf<Complex, Complex> c128;
    const RelaxStencilKernels* stencil;
    template <class A, class V> const RelaxKernelsOf<A, V>& of() const {
        if constexpr (sizeof(A) == 16)
            return c128;
        else if constexpr (sizeof(A) == 8)
            return f64;
        else if constexpr (sizeof(V) == 8)
            return mixed;
        else
            return f32;
    }
};

} // namespace fastiter
