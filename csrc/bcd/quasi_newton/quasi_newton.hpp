// Logistic and softmax losses with l1 and l2: limited-memory quasi-Newton steps in all coordinates.
#pragma once
#include "bcd/factor.hpp"
#include <vector>

namespace fastiter::bcd {

// The sum of the losses of A w + 1 c, plus l1 |w|_1 + l2 |w|^2 / 2; x (m + 1, classes) is w and the intercepts c, or without
// intercepts (m, classes). If it subtracts the means, A - 1 mean' is in the place of A.
struct Samples {
    int64_t n = 0, m = 0, classes = 1;
    bool has_intercept = false;
    const double* b = nullptr;      // (n) 0 or 1 if classes = 1, otherwise a class
    const double* weight = nullptr; // (n); null: 1
    const double* mean = nullptr;   // (m) of the columns, before they were centred if it does not subtract them
    bool subtracts = false;         // only with intercepts
    double l1 = 0, l2 = 0;
};

class QuasiNewton {
public:
    QuasiNewton(std::unique_ptr<Factor> a, const Samples& problem, double* x);

    // Takes at most `count` steps, until the largest entry of the minimum-norm subgradient is at most `goal`, for a
    // gradient computed from x anew. Returns the number of steps, which is smaller also if no step decreases the objective.
    int64_t run(int64_t count, double goal);
    double objective() const { return objective_; }
    double residual() const { return residual_; }

private:
    using Vector = std::vector<double>;
    struct Point {
        double value, slope, curvature; // the objective along a direction
    };
    void renew();
    void renew_gradient();
    bool set_scale();
    Point along(double t);
    bool step();
    double turn();
    bool search(double slope, double& t);
    bool move_along(double slope);
    void remember(const Vector& move, const Vector& before);
    void product(const Vector& x, Vector& out);
    double penalty(const double* x) const;
    const Vector& slopes() const { return p_.l1 > 0 ? slopes_ : g_; }
    // orthant.cpp
    void renew_slopes();
    bool move_in_orthant();
    double project(double t, Vector& to) const;
    void shift_classes(Vector& x) const;

    std::unique_ptr<Factor> a_;
    Samples p_;
    double* x_;
    int64_t size_;
    Vector z_, ahead_, u_, sums_; // (classes, n): products with x and with the direction, derivatives of the losses
    Vector g_, d_, scale_;        // gradient, direction, inverse of the first approximation of the second derivatives
    Vector slopes_;               // with l1, the minimum-norm subgradient
    Vector moves_, changes_;      // (pairs, size): steps and changes of the gradient
    Vector rho_, share_;
    int64_t known_ = 0, next_ = 0;   // pairs stored, and the place of the next one
    double linear_ = 0, square_ = 0; // the penalty's along the direction
    double penalty_ = 0, value_ = 0; // at x, and the change of the search with the losses
    double objective_ = 0, residual_ = 0;
    bool is_fresh_ = false;
};

} // namespace fastiter::bcd
