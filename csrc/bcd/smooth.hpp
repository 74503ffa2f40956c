// Logistic and softmax losses with l2 alone: limited-memory quasi-Newton steps in all coordinates.
#pragma once
#include "bcd/cpu/kernels.hpp"
#include <memory>
#include <vector>

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

// The sum of the losses of A w + 1 c, plus l2 |w|^2 / 2; x (m + 1, classes) is w and the intercepts c, or without
// intercepts (m, classes). If it subtracts the means, A - 1 mean' is in the place of A.
struct SmoothProblem {
    int64_t n = 0, m = 0, classes = 1;
    bool has_intercept = false;
    const double* b = nullptr;      // (n) 0 or 1 if classes = 1, otherwise a class
    const double* weight = nullptr; // (n); null: 1
    const double* mean = nullptr;   // (m) of the columns, before they were centred if it does not subtract them
    bool subtracts = false;         // only with intercepts
    double l2 = 0;
};

class Smooth {
public:
    Smooth(std::unique_ptr<Factor> a, const SmoothProblem& problem, double* x);

    // Takes at most `count` steps, until the largest entry of the gradient is at most `goal`, for a gradient computed
    // from x anew. Returns the number of steps, which is smaller also if no step decreases the objective.
    int64_t run(int64_t count, double goal);
    double objective() const { return objective_; }
    double residual() const { return residual_; }

private:
    typedef std::vector<double> Vector;
    struct Point {
        double value, slope, curvature; // of the objective along a direction
    };
    void renew();
    void renew_gradient();
    void set_scale();
    Point along(double t);
    bool step();
    double turn();
    bool search(double slope, double& t);
    void remember(double t, const Vector& before);
    void product(const Vector& x, Vector& out);
    double penalty() const;

    std::unique_ptr<Factor> a_;
    SmoothProblem p_;
    double* x_;
    int64_t size_;
    Vector z_, ahead_, u_, sums_; // (classes, n): products with x and with the direction, derivatives of the losses
    Vector g_, d_, scale_;        // gradient, direction, inverse of the first approximation of the second derivatives
    Vector moves_, changes_;      // (pairs, size): steps and changes of the gradient
    Vector rho_, share_;
    int64_t known_ = 0, next_ = 0;   // pairs stored, and the place of the next one
    double linear_ = 0, square_ = 0; // of the penalty along the direction
    double penalty_ = 0, value_ = 0; // at x, and the change of the search with the losses
    double objective_ = 0, residual_ = 0;
    bool is_fresh_ = false;
};

} // namespace fastiter::bcd
