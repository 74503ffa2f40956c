// The data matrix of a problem with several classes.
#pragma once
#include "bcd/cpu/kernels.hpp"
#include <memory>

namespace fastiter::bcd {

// The data as the products that they enter into, which hides the element type
class Factor {
public:
    virtual ~Factor() = default;
    virtual double epsilon() const = 0;
    virtual void product(const double* in, double* out) = 0;    // (m, classes) to (classes, n)
    virtual void transposed(const double* in, double* out) = 0; // (classes, n) to (m, classes)
    // The sums over i of weight_i d_ij and weight_i d_ij^2, d_ij = a_ij - mean_j; mean null: 0
    virtual void moments(const double* weight, const double* mean, double* first, double* second) const = 0;
};
template <class T> std::unique_ptr<Factor> factor_of(const Product<T>& form);

} // namespace fastiter::bcd
