// Columns of a matrix A (n, m), dense or compressed, as block coordinate descent reads them: products with vectors of n
// numbers, and sweeps over single coordinates of
//
//   minimise    sum over i of loss(a_i . x)  +  sum over j of (l1_j |x_j| + l2_j x_j^2 / 2),    lower_j <= x_j <= upper_j
//
// A is stored as T; vectors are double, in which all sums are accumulated. One thread runs a sweep, as each coordinate
// depends on the last; sums are in the order of storage, or of the lanes of a vector for dense columns.
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

// The part that is separable, with curvature_j = an upper bound of the second derivative of the smooth part in x_j
struct Separable {
    const double* l1 = nullptr;
    const double* l2 = nullptr;
    const double* lower = nullptr;
    const double* upper = nullptr;
    const double* curvature = nullptr;
};

// x_j <- the minimiser in x_j, in the given order: of least squares, u = A x - b, or of a quadratic, A symmetric, u its
// gradient A x - b. Both u change with x. A coordinate without curvature stays.
struct SweepState {
    Separable s;
    double* x = nullptr;
    double* u = nullptr;
    const int32_t* order = nullptr;
    int64_t count = 0;
    bool is_quadratic = false;
    int64_t status_changes = 0; // result: coordinates that came to 0 or to a bound, or left it
};
template <class T> struct Sweep {
    Columns<T> a;
    SweepState& to;
};

// The same on a quadratic model of the losses with fixed weights, sum over i of u_i v_i + weight_i v_i^2 / 2, where v is
// A times the change of x: r = u + weight v (n) changes with x.
struct ModelState {
    Separable s; // curvature_j = the sum over i of weight_i a_ij^2, + l2_j, above 0
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

// x += (b_i - a_i . x) inverse_i a_i for the rows i of `order`, which are columns here; inverse_i: 1 / |a_i|^2
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

template <class T> struct KernelsOf {
    double (*dot)(const Columns<T>&, int64_t j, const double* u);                    // a_j . u
    void (*add)(const Columns<T>&, int64_t j, double d, double* z);                  // z += d a_j
    void (*products)(const Columns<T>&, const double* u, double* g, int64_t stride); // g[j stride] += a_j . u, all j
    double (*squares)(const Columns<T>&, int64_t j, const double* weight);           // sum over i of weight_i a_ij^2
    double (*sweep)(const Sweep<T>&);            // the largest curvature_j |change of x_j|
    double (*model_sweep)(const ModelSweep<T>&); // the same
    void (*kaczmarz)(const Kaczmarz<T>&);
};

// u_i = weight_i (sigmoid(z_i) - b_i); weight null: 1
using Logistic = void (*)(int64_t n, const double* z, const double* b, const double* weight, double* u);

// x <- the minimiser of x A x / 2 - b x in the nodes of a block, eliminated in this order
struct ForestState {
    int64_t size = 0;
    const int32_t* node = nullptr;
    const int32_t* parent = nullptr; // its place in the order; -1: a root; null: all are
    const double* inverse = nullptr; // 1 / pivot
    const double* ratio = nullptr;   // a(node, parent) / pivot
    const int64_t* start = nullptr;  // (size + 1): the entries outside of the block
    const int32_t* column = nullptr;
    const double* value = nullptr;
    const double* b = nullptr;
    double* x = nullptr;
    double* work = nullptr; // (size): 0 before and after
};

struct Kernels : ByType<KernelsOf<float>, KernelsOf<double>> {
    Logistic logistic = nullptr;
    void (*forest)(const ForestState&) = nullptr;
};

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::bcd
