// Sweeps of relaxation over A x = b, and residuals. With z_i = (b_i - sum over j != i of a_ij x_j) / a_ii:
//
//   y_i = (1 - omega) x_i + omega z_i          Gauss-Seidel, SOR: y is x, updated row by row; Jacobi: y is not x
//   d_i = momentum d_i + omega (z_i - x_i), y_i = x_i + d_i                                  Chebyshev on Jacobi
//
// x, b, y (n, k), contiguous: k right-hand sides. A is stored as A, the vectors as V, and sums are accumulated in
// sum_of<V>. Sums follow the storage order of the entries, without fused multiply-add, so that results are bitwise the
// same for every instruction set and number of threads. The entries do not include the diagonal.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(relax)

namespace fastiter::relax {

struct Complex {
    double re, im;
};

// Type in which sums are accumulated: more precise than accumulate_t
template <class V> using sum_of = std::conditional_t<std::is_same_v<V, Complex>, Complex, double>;

constexpr int kSliceRows = 8;     // rows whose entries are interleaved
constexpr int kChunkRows = 512;   // rows that share a partial sum of a norm
constexpr int kMaxBlockSize = 64; // limit of block methods

template <class V> struct RelaxStep {
    const V* b = nullptr;
    const V* x = nullptr;
    V* y = nullptr;
    V* d = nullptr; // null: no momentum
    int64_t k = 1;
    double omega = 1, momentum = 0;
    bool backward = false;
};

// r = b - A x if r is not null; norms (chunks, k) receives the sums of |r|^2 over the rows of each chunk.
template <class V> struct RelaxResidual {
    const V* b = nullptr;
    const V* x = nullptr;
    V* r = nullptr;
    int64_t k = 1;
    double* norms = nullptr;
};

// Clustered CSR: rows are processed in order within clusters of consecutive rows; clusters of one colour are
// independent. The coefficients of x[i-1] and x[i+1] are stored separately when in the same cluster: x[i-1] is the only
// loop-carried dependency. A coefficient of 0 means no entry.
template <class A, class V> struct CsrMatrix {
    int64_t n = 0;
    const int64_t* cluster_row = nullptr;   // (clusters + 1) first row of each cluster
    const int64_t* cluster_entry = nullptr; // (clusters + 1) first entry of each cluster
    const int64_t* chunk_entry = nullptr;   // (chunks + 1) first entry of each chunk of rows
    const int32_t* length = nullptr;        // (n)
    const int32_t* column = nullptr;
    const A* value = nullptr; // a batch of k matrices: (entries, k); likewise the next four
    const A* before = nullptr;
    const A* after = nullptr;
    const A* diagonal = nullptr;
    const sum_of<V>* inverse = nullptr; // 1 / diagonal
    bool batched = false;
};

// SELL: slices of 8 rows, padded to the same number of entries: entry j of row i of a slice is at (start + j) * 8 + i.
// Shorter rows repeat their first column with the value 0. The columns of the 8 entries j are consecutive from
// run[start + j] on, as nearly always on a grid, or, if that is negative, column[~run * 8 + i].
template <class A, class V> struct SellMatrix {
    int64_t n = 0;                  // the last slice may have fewer rows
    const int64_t* start = nullptr; // (slices + 1)
    const int32_t* run = nullptr;
    const int32_t* column = nullptr;
    const A* value = nullptr;
    const A* diagonal = nullptr;
    const sum_of<V>* inverse = nullptr;
};

// BSR: rows of column-major blocks, in clusters of consecutive rows as above. x has `size` numbers per row. A batch of
// k matrices stores k values per entry of a block.
template <class A, class V> struct BsrMatrix {
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

// A (n, n) row-major, including the diagonal; `order` null: from first to last.
template <class A, class V> struct DenseMatrix {
    int64_t n = 0;
    const A* value = nullptr;
    const int32_t* order = nullptr;
    const sum_of<V>* inverse = nullptr;
};

// Kaczmarz: x += omega (b_i - a_i x) conj(a_i) / |a_i|^2 for every row in order; x (columns, k).
template <class A, class V> struct KaczmarzMatrix {
    int64_t n = 0;
    const int64_t* start = nullptr; // (n + 1)
    const int32_t* column = nullptr;
    const A* value = nullptr;
    const double* inverse = nullptr; // 1 / |a_i|^2, 0 for a row of zeros
    // A batch of k matrices: value is (entries, k), and this (n, k) replaces inverse, in both parts of a complex number
    const sum_of<V>* inverses = nullptr;
};

// Every range is [first, last): clusters, slices, rows, or chunks of rows; columns of x: [column, column + columns).
template <class A, class V> struct KernelsOf {
    void (*csr)(const CsrMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                int64_t columns);
    void (*csr_residual)(const CsrMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*sell)(const SellMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last);
    void (*sell_residual)(const SellMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*bsr)(const BsrMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                int64_t columns);
    void (*bsr_residual)(const BsrMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*dense)(const DenseMatrix<A, V>&, const RelaxStep<V>&, int64_t first, int64_t last, int64_t column,
                  int64_t columns);
    void (*dense_residual)(const DenseMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
    void (*kaczmarz)(const KaczmarzMatrix<A, V>&, const RelaxStep<V>&, int64_t column, int64_t columns);
    void (*kaczmarz_residual)(const KaczmarzMatrix<A, V>&, const RelaxResidual<V>&, int64_t first, int64_t last);
};

// A 5-point stencil on a grid (n0, 1, n2), or a 7-point one on (n0, n1, n2), contiguous in n2; x is 0 outside.
// Coefficients: of the point itself, then of its predecessor and successor along axis 0, 1 and 2; one number each, or
// one per point. Points whose `inverse` (1 / the first coefficient) is 0 are fixed: their x is given and they have no
// equation.
template <class T> struct RelaxStencil {
    int64_t n0 = 0, n1 = 1, n2 = 0;
    const T* coefficient[7] = {};
    bool is_constant = true;
    const T* inverse = nullptr; // null: constant_inverse everywhere
    T constant_inverse{};       // inverse of the constant diagonal
    const T* zeros = nullptr;   // (n2)
};

// All arithmetic is in T, with fused multiply-add if the hardware has it. Planes are along axis 0; colours form a
// chessboard.
template <class T> struct StencilKernelsOf {
    // columns [first, last) of one plane: the points whose indices and colour have an even sum
    void (*half)(const RelaxStencil<T>&, const RelaxStep<T>&, int64_t plane, int64_t colour, int64_t first,
                 int64_t last);
    void (*whole)(const RelaxStencil<T>&, const RelaxStep<T>&, int64_t first, int64_t last); // Jacobi, Chebyshev
    void (*natural)(const RelaxStencil<T>&, const RelaxStep<T>&);
    void (*listed)(const RelaxStencil<T>&, const RelaxStep<T>&, const int32_t* points, int64_t first, int64_t last);
    // Kaczmarz: x += omega (b_i - a_i x) conj(a_i) / |a_i|^2 for points that are not fixed; points null: natural order
    void (*kaczmarz)(const RelaxStencil<T>&, const RelaxStep<T>&, const int32_t* points);
    void (*residual)(const RelaxStencil<T>&, const RelaxResidual<T>&, int64_t first, int64_t last); // norms (n0)
};

using StencilKernels = ByType<StencilKernelsOf<float>, StencilKernelsOf<double>, StencilKernelsOf<Complex>>;

using Kernels =
    ByType<KernelsOf<float, float>, KernelsOf<float, double>, KernelsOf<double, double>, KernelsOf<Complex, Complex>>;

FASTITER_TABLE(Kernels, kernels)

FASTITER_TABLE(StencilKernels, stencil_kernels)

} // namespace fastiter::relax
