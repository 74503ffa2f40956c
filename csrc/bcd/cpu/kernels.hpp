// Kernels of block coordinate descent on the columns of a matrix A (n, m), dense or compressed: products with vectors
// of length n, and sweeps over single coordinates of the problem
//
//   minimise    sum over i of loss(a_i . x)  +  sum over j of (l1_j |x_j| + l2_j x_j^2 / 2),    lower_j <= x_j <= upper_j
//
// A is stored as T; vectors and all sums are double. A sweep runs on one thread, as each coordinate depends on the one
// before; sums run in storage order, or lane by lane for dense columns.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(bcd)

namespace fastiter::bcd {

template <class T> struct Columns {
    int64_t n = 0, m = 0;
    const int64_t* start = nullptr; // (m + 1), compressed columns; null: dense, column-major
    const int32_t* row = nullptr;   // (entries), increasing in each column
    const T* value = nullptr;       // (entries), or (n m)
};

// The separable part of the objective; curvature_j is an upper bound of the second derivative of the smooth part in
// x_j.
struct Separable {
    const double* l1 = nullptr;
    const double* l2 = nullptr;
    const double* lower = nullptr;
    const double* upper = nullptr;
    const double* curvature = nullptr;
};

// A sweep sets each x_j, in the given order, to the minimiser over that coordinate. u is the residual A x - b of least
// squares, or, for a symmetric A, the gradient A x - b of a quadratic; it is updated with x. A coordinate without
// curvature is left unchanged.
struct SweepState {
    Separable s;
    double* x = nullptr;
    double* u = nullptr;
    const int32_t* order = nullptr;
    int64_t count = 0;
    bool is_quadratic = false;
    int64_t status_changes = 0; // result: number of coordinates that reached or left 0 or a bound
};
template <class T> struct Sweep {
    Columns<T> a;
    SweepState& to;
};

// A sweep on a quadratic model of the losses with fixed weights, sum over i of u_i v_i + weight_i v_i^2 / 2, where v is
// A times the change of x. r = u + weight v (n) is updated with x.
struct ModelState {
    Separable s; // curvature_j = sum over i of weight_i a_ij^2, + l2_j; positive
    double* x = nullptr;
    double* r = nullptr;
    const double* weight = nullptr;
    const int32_t* order = nullptr;
    int64_t count = 0;
};
template <class T> struct ModelSweep {
    Columns<T> a;
    ModelState& to;
};

// A sweep of the lasso: l1 and l2 are the same for all columns, x >= lower, which is 0 or -inf. With `mean`, the columns
// are a_j - mean_j ones, without being stored: v is the residual plus any multiple of `ones`, and sum = ones . v. A
// column whose curvature is 0 is left unchanged.
struct LassoState {
    const double* curvature = nullptr;
    const double* inverse = nullptr; // 1 / curvature, or 0
    const double* mean = nullptr;    // null: not centred
    double total = 0;                // ones . ones
    double l1 = 0, l2 = 0, lower = 0;
    double* x = nullptr;
    double* v = nullptr;
    double sum = 0;
    const int32_t* order = nullptr;
    int64_t count = 0;
    double largest = 0;         // result: the largest curvature_j |change of x_j|
    int64_t status_changes = 0; // result: number of coordinates that reached or left 0
};
template <class T> struct LassoSweep {
    Columns<T> a;
    LassoState& to;
};

// products[r columns + c] = a_row[r] . a_column[c]; `work` (n) is 0 before and after, used for compressed columns
struct GramState {
    const int32_t* row = nullptr;
    int64_t rows = 0;
    const int32_t* column = nullptr;
    int64_t columns = 0;
    double* work = nullptr;
    double* products = nullptr;
};
template <class T> struct Gram {
    Columns<T> a;
    const GramState& to;
};

// x += (b_i - a_i . x) inverse_i a_i for each row i in `order`, stored as a column here; inverse_i = 1 / |a_i|^2
struct KaczmarzState {
    const double* b = nullptr;
    const double* inverse = nullptr;
    double* x = nullptr;
    const int32_t* order = nullptr;
    int64_t count = 0;
};
template <class T> struct Kaczmarz {
    Columns<T> rows;
    const KaczmarzState& to;
};

// Products with a matrix of one column for each class: out (classes, n) = A in, in (m, classes), or with A's transpose
// out (m, classes) = A' in, in (classes, n). A is stored by columns; if it is compressed, possibly by rows.
template <class T> struct Product {
    int64_t n = 0, m = 0, classes = 1;
    const int64_t* start = nullptr; // null: dense, column-major
    const int32_t* index = nullptr;
    const T* value = nullptr;
    bool by_rows = false;
    const double* in = nullptr;
    double* out = nullptr;
    double* work = nullptr; // (n classes), if A is compressed and there are several classes
};

// The losses of z + t d, chunk by chunk of kLossRows samples, with their first and second derivatives by t, and their
// derivatives u by z. Logistic with one class, where b is 0 or 1, otherwise softmax, where b is a class.
constexpr int64_t kLossRows = 512;
struct Losses {
    int64_t n = 0, classes = 1;
    const double* b = nullptr;
    const double* weight = nullptr; // null: 1
    const double* z = nullptr;      // (classes, n)
    const double* d = nullptr;      // (classes, n)
    double t = 0;
    double* u = nullptr;    // (classes, n)
    double* sums = nullptr; // (chunks, 3)
};

template <class T> struct KernelsOf {
    double (*dot)(const Columns<T>&, int64_t j, const double* u);                    // a_j . u
    void (*add)(const Columns<T>&, int64_t j, double d, double* z);                  // z += d a_j
    void (*products)(const Columns<T>&, const double* u, double* g, int64_t stride); // g[j stride] += a_j . u, all j
    double (*squares)(const Columns<T>&, int64_t j, const double* weight);           // sum over i of weight_i a_ij^2
    double (*sweep)(const Sweep<T>&);            // the largest curvature_j |change of x_j|
    double (*model_sweep)(const ModelSweep<T>&); // the same
    void (*kaczmarz)(const Kaczmarz<T>&);
    void (*product)(const Product<T>&, Team);
    void (*transposed_product)(const Product<T>&, Team);
    void (*products_of)(const Columns<T>&, const int32_t* columns, int64_t count, const double* u, double* g); // g[k]
    void (*lasso_sweep)(const LassoSweep<T>&);
    void (*gram)(const Gram<T>&);
    // the sum over i of (a_ij - mean ones_i)^2, where ones . ones = total
    double (*centred_squares)(const Columns<T>&, int64_t j, double mean, const double* ones, double total);
};

// u_i = weight_i (sigmoid(z_i) - b_i); weight null: 1
using Logistic = void (*)(int64_t n, const double* z, const double* b, const double* weight, double* u);

// Sets x in the nodes of a block to the minimiser of x A x / 2 - b x. `node` is in the order of elimination.
struct ForestState {
    int64_t size = 0;
    const int32_t* node = nullptr;
    const int32_t* parent = nullptr; // position of the parent in that order, -1 for a root; null: all nodes are roots
    const double* inverse = nullptr; // 1 / pivot
    const double* ratio = nullptr;   // a(node, parent) / pivot
    const int64_t* start = nullptr;  // (size + 1): ranges of the entries outside the block
    const int32_t* column = nullptr;
    const double* value = nullptr;
    const double* b = nullptr;
    double* x = nullptr;
    double* work = nullptr; // (size): 0 before and after
};

struct Kernels : ByType<KernelsOf<float>, KernelsOf<double>> {
    Logistic logistic = nullptr;
    void (*forest)(const ForestState&) = nullptr;
    void (*losses)(const Losses&, Team) = nullptr;
    // Overwrites the lower triangle of h (n, n) with its Cholesky factor; false: not positive definite.
    bool (*cholesky)(double* h, int64_t n) = nullptr;
    void (*solve_cholesky)(const double* factor, int64_t n, double* x) = nullptr;
};

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::bcd
