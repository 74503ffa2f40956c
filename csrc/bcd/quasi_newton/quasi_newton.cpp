#include "bcd/quasi_newton/quasi_newton.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <cmath>

namespace fastiter::bcd {
namespace {

constexpr int64_t kPairs = 10;
constexpr int64_t kExponentials = 1 << 13; // leave a thread enough to do
// A search ends where the slope has fallen to this part of the first one: a small one if products with A cost more than
// the losses, whose values along a line need none.
constexpr double kPrecise = 0.01, kAccurate = 0.1, kRough = 0.9;
constexpr int64_t kFewColumns = 32, kManyColumns = 256;
constexpr double kConstant = 8; // rounding errors of a constant column's mean
constexpr double kMinCurvature = 1e-6;
constexpr int kTrials = 12;
constexpr double kGrowth = 4, kRounding = 0x1p-40;

// Vectors of equal length one after the other are a dense matrix by columns.
Columns<double> matrix_of(const std::vector<double>& vectors, int64_t length) {
    return {length, int64_t(vectors.size()) / std::max<int64_t>(length, 1), nullptr, nullptr, vectors.data()};
}

double dot(const std::vector<double>& x, const std::vector<double>& y) {
    return kernels().of<KernelsOf<double>>().dot(matrix_of(x, int64_t(x.size())), 0, y.data());
}

} // namespace

QuasiNewton::QuasiNewton(std::unique_ptr<Factor> a, const Samples& problem, double* x)
    : a_(std::move(a)), p_(problem), x_(x), size_((problem.m + problem.has_intercept) * problem.classes) {
    const size_t rows = size_t(p_.n * p_.classes), size = size_t(size_);
    for (Vector* each : {&z_, &ahead_, &u_}) each->assign(rows, 0);
    for (Vector* each : {&g_, &d_, &scale_}) each->assign(size, 0);
    sums_.assign(size_t(3 * ((p_.n + kLossRows - 1) / kLossRows)), 0);
    rho_.assign(kPairs, 0);
    share_.assign(kPairs, 0);
    renew();
    if (set_scale()) renew();
}

// out = A w + 1 c
void QuasiNewton::product(const Vector& x, Vector& out) {
    a_->product(x.data(), out.data());
    if (!p_.has_intercept) return;
    for (int64_t k = 0; k < p_.classes; ++k) {
        double shift = x[size_t(p_.m * p_.classes + k)];
        for (int64_t j = 0; p_.subtracts && j < p_.m; ++j) shift -= p_.mean[j] * x[size_t(j * p_.classes + k)];
        for (int64_t i = 0; i < p_.n; ++i) out[size_t(k * p_.n + i)] += shift;
    }
}

// Computes everything from x.
void QuasiNewton::renew() {
    std::copy(x_, x_ + size_, d_.begin());
    product(d_, z_);
    std::fill(ahead_.begin(), ahead_.end(), 0.0);
    linear_ = square_ = 0;
    penalty_ = penalty(x_);
    objective_ = along(0).value + penalty_;
    renew_gradient();
    known_ = next_ = 0;
    is_fresh_ = true;
}

void QuasiNewton::renew_gradient() {
    a_->transposed(u_.data(), g_.data());
    for (int64_t k = 0; k < p_.classes && p_.has_intercept; ++k) {
        double sum = 0;
        for (int64_t i = 0; i < p_.n; ++i) sum += u_[size_t(k * p_.n + i)];
        for (int64_t j = 0; p_.subtracts && j < p_.m; ++j) g_[size_t(j * p_.classes + k)] -= p_.mean[j] * sum;
        g_[size_t(p_.m * p_.classes + k)] = sum;
    }
    for (int64_t c = 0; c < p_.m * p_.classes; ++c) g_[size_t(c)] += p_.l2 * x_[c];
    if (p_.l1 > 0) renew_slopes();
    residual_ = 0;
    for (double g : slopes()) residual_ = std::abs(g) > residual_ || g != g ? std::abs(g) : residual_;
}

// The inverse of the diagonal of the second derivatives, with the average weight of all samples in each class; 0 for
// columns that are constant but for rounding, as the intercepts take their place: their coefficients become 0. Returns
// whether any was not.
bool QuasiNewton::set_scale() {
    Vector sums(size_t(p_.m)), squares(size_t(p_.m)), weight(size_t(p_.n), 1.0);
    if (p_.weight) std::copy(p_.weight, p_.weight + p_.n, weight.begin());
    a_->moments(weight.data(), p_.subtracts ? p_.mean : nullptr, sums.data(), squares.data());
    double total = 0;
    bool changes = false;
    for (double w : weight) total += w;
    for (size_t j = 0; j < sums.size() && p_.has_intercept && total > 0; ++j)
        squares[j] = std::max(squares[j] - sums[j] * (sums[j] / total), 0.0); // the mean may be rounded
    for (int64_t k = 0; k < p_.classes; ++k) {
        double curvature = 0;
        for (int64_t i = 0; i < p_.n; ++i) {
            const double weight_i = weight[size_t(i)], size = std::abs(u_[size_t(k * p_.n + i)]);
            curvature += weight_i > 0 ? size * std::max(1 - size / weight_i, 0.0) : 0;
        }
        curvature = std::max(curvature / (total > 0 ? total : 1), kMinCurvature);
        for (int64_t j = 0; j < p_.m; ++j) {
            const double rounding = p_.has_intercept ? kConstant * a_->epsilon() * p_.mean[j] : 0;
            const double own = squares[size_t(j)], whole = curvature * own + p_.l2;
            const bool is_free = own > total * rounding * rounding && whole > 0;
            scale_[size_t(j * p_.classes + k)] = is_free ? 1 / whole : 0;
            if (is_free || x_[j * p_.classes + k] == 0) continue;
            x_[j * p_.classes + k] = 0;
            changes = true;
        }
        if (p_.has_intercept) scale_[size_t(p_.m * p_.classes + k)] = total > 0 ? 1 / (curvature * total) : 1;
    }
    return changes;
}

// The objective at x + t d, without its value at 0 of the penalty; u becomes the derivatives of the losses there.
QuasiNewton::Point QuasiNewton::along(double t) {
    Losses losses{p_.n, p_.classes, p_.b, p_.weight, z_.data(), ahead_.data(), t, u_.data(), sums_.data()};
    launch(kernels().losses, losses,
           [&](int threads) { return threads_for(p_.n * p_.classes, kExponentials, threads); });
    Point point{t * linear_ + t * t * square_ / 2, linear_ + t * square_, square_};
    for (size_t c = 0; c < sums_.size(); c += 3) {
        point.value += sums_[c];
        point.slope += sums_[c + 1];
        point.curvature += sums_[c + 2];
    }
    return point;
}

// Sets d to the direction of descent; returns the slope in it.
double QuasiNewton::turn() {
    const KernelsOf<double>& k = kernels().of<KernelsOf<double>>();
    const Columns<double> moves = matrix_of(moves_, size_), changes = matrix_of(changes_, size_);
    d_ = slopes();
    for (int64_t back = 1; back <= known_; ++back) {
        const int64_t i = (next_ - back + kPairs) % kPairs;
        share_[size_t(i)] = k.dot(moves, i, d_.data()) * rho_[size_t(i)];
        k.add(changes, i, -share_[size_t(i)], d_.data());
    }
    double factor = 1;
    if (known_) {
        const int64_t last = (next_ - 1 + kPairs) % kPairs;
        const double* y = changes_.data() + last * size_;
        double square = 0;
        for (int64_t c = 0; c < size_; ++c) square += y[c] * y[c] * scale_[size_t(c)];
        factor = 1 / (rho_[size_t(last)] * square);
    }
    for (int64_t c = 0; c < size_; ++c) d_[size_t(c)] *= factor * scale_[size_t(c)];
    for (int64_t back = known_; back > 0; --back) {
        const int64_t i = (next_ - back + kPairs) % kPairs;
        k.add(moves, i, share_[size_t(i)] - rho_[size_t(i)] * k.dot(changes, i, d_.data()), d_.data());
    }
    for (double& d : d_) d = -d;
    if (p_.l1 > 0)
        for (int64_t c = 0; c < size_; ++c)
            if (d_[size_t(c)] * slopes_[size_t(c)] >= 0) d_[size_t(c)] = 0;
    return dot(slopes(), d_);
}

// Finds a t at which the slope is small, by Newton's method within an interval with both signs. False: the objective
// is above that at 0, and nothing has changed.
bool QuasiNewton::search(double slope, double& t) {
    const double share = p_.m < kFewColumns ? kRough : p_.m < kManyColumns ? kAccurate : kPrecise;
    const double enough = share * std::abs(slope);
    const double before = objective_ - penalty_;
    double low = 0, high = HUGE_VAL;
    t = 1;
    for (int trial = 1;; ++trial) {
        const Point now = along(t);
        const bool is_flat = std::abs(now.slope) <= enough;
        if (is_flat || trial == kTrials) {
            value_ = now.value;
            if (is_flat || now.value <= before + kRounding * std::abs(before)) return true;
            along(0);
            return false;
        }
        (now.slope < 0 ? low : high) = t;
        double next = t - now.slope / now.curvature;
        if (!(next > low && next < high)) next = high < HUGE_VAL ? (low + high) / 2 : HUGE_VAL;
        t = std::min(next, kGrowth * t);
    }
}

double QuasiNewton::penalty(const double* x) const {
    double squares = 0, magnitudes = 0;
    for (int64_t c = 0; c < p_.m * p_.classes; ++c) {
        squares += x[c] * x[c];
        magnitudes += std::abs(x[c]);
    }
    return p_.l2 * squares / 2 + p_.l1 * magnitudes;
}

// Stores a step and the change of the gradient from `before`, unless rounding hides the curvature.
void QuasiNewton::remember(const Vector& move, const Vector& before) {
    moves_.resize(size_t(kPairs * size_));
    changes_.resize(size_t(kPairs * size_));
    double *to = moves_.data() + next_ * size_, *change = changes_.data() + next_ * size_;
    double both = 0, own = 0, other = 0;
    for (int64_t c = 0; c < size_; ++c) {
        to[c] = move[size_t(c)];
        change[c] = g_[size_t(c)] - before[size_t(c)];
        both += to[c] * change[c];
        own += to[c] * to[c];
        other += change[c] * change[c];
    }
    if (!(both > 0x1p-52 * std::sqrt(own) * std::sqrt(other))) return;
    rho_[size_t(next_)] = 1 / both;
    next_ = (next_ + 1) % kPairs;
    known_ = std::min(known_ + 1, kPairs);
}

bool QuasiNewton::step() {
    for (;; known_ = next_ = 0) {
        const double slope = turn();
        if (slope < 0 && (p_.l1 > 0 ? move_in_orthant() : move_along(slope))) return true;
        if (!known_) return false;
    }
}

// x += t d for a t at which the slope is small; false: there is none.
bool QuasiNewton::move_along(double slope) {
    product(d_, ahead_);
    linear_ = square_ = 0;
    for (int64_t c = 0; c < p_.m * p_.classes; ++c) {
        linear_ += p_.l2 * x_[c] * d_[size_t(c)];
        square_ += p_.l2 * d_[size_t(c)] * d_[size_t(c)];
    }
    double t = 0;
    if (!search(slope, t)) return false;
    for (double& d : d_) d *= t;
    for (int64_t c = 0; c < size_; ++c) x_[c] += d_[size_t(c)];
    for (size_t i = 0; i < z_.size(); ++i) z_[i] += t * ahead_[i];
    objective_ = value_ + penalty_; // the penalty's change is part of the value
    penalty_ = penalty(x_);
    const Vector before = g_;
    renew_gradient();
    remember(d_, before);
    is_fresh_ = false;
    return true;
}

int64_t QuasiNewton::run(int64_t count, double goal) {
    for (int64_t done = 0;; ++done) {
        if (residual_ <= goal && !is_fresh_) renew(); // without the rounding errors that z has accumulated
        if (residual_ <= goal || done == count || !step()) return done;
    }
}

} // namespace fastiter::bcd
