// The matrix interface of the solvers, which hides the element type.
#pragma once
#include "bcd/cpu/kernels.hpp"
#include <memory>
#include <vector>

namespace fastiter::bcd {

using List = std::vector<int32_t>;
using Vector = std::vector<double>;

class Matrix {
public:
    virtual ~Matrix() = default;
    virtual double dot(int64_t j, const double* u) const = 0;                       // a_j . u
    virtual void add(int64_t j, double d, double* z) const = 0;                     // z += d a_j
    virtual void products(const double* u, double* g, int64_t stride) const = 0;    // g[j stride] += a_j . u
    virtual void add_row(int64_t i, double d, double* g, int64_t stride) const = 0; // g[j stride] += d a_ij
    virtual double squares(int64_t j, const double* weight) const = 0;              // the sum over i of weight_i a_ij^2
    virtual void squares(const double* weight, double* sums) const = 0;             // the same for all columns
    virtual double sweep(SweepState& p) const = 0;
    virtual double sweep(ModelState& p) const = 0;
    virtual void kaczmarz(const KaczmarzState& p) const = 0;                             // rows stored as columns
    virtual void products_of(const List& columns, const double* u, double* g) const = 0; // g[k] = a_j . u, j the k-th
    virtual void sweep(LassoState& p) const = 0;
    virtual void gram(const GramState& p) const = 0;
    virtual double centred_squares(int64_t j, double mean, const double* ones, double total) const = 0;

    int64_t entries() const { return start ? start[m] : n * m; }
    int64_t entries(int64_t j) const { return start ? start[j + 1] - start[j] : n; }

    int64_t n = 0, m = 0;
    const int64_t* start = nullptr; // the pattern of compressed columns; null: dense
    const int32_t* row = nullptr;
};

template <class T> struct Rows { // compressed rows of the same matrix
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
    const T* value = nullptr;
};

// Borrows the arrays.
template <class T> std::unique_ptr<Matrix> matrix_of(const Columns<T>& columns, const Rows<T>& rows);

} // namespace fastiter::bcd
