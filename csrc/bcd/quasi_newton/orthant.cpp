// Steps with l1: within the orthant of x, in which l1 is linear, and which the slopes choose where x is 0.
#include "bcd/quasi_newton/quasi_newton.hpp"
#include <algorithm>
#include <cmath>

namespace fastiter::bcd {
namespace {

constexpr double kDecrease = 1e-4; // the constant in Armijo's condition
constexpr double kShortest = 0x1p-40, kRounding = 0x1p-43;

} // namespace

void QuasiNewton::renew_slopes() {
    slopes_ = g_;
    for (int64_t c = 0; c < p_.m * p_.classes; ++c) {
        const double low = x_[c] > 0 ? g_[size_t(c)] + p_.l1 : g_[size_t(c)] - p_.l1;
        const double high = x_[c] < 0 ? g_[size_t(c)] - p_.l1 : g_[size_t(c)] + p_.l1;
        slopes_[size_t(c)] = low > 0 ? low : (high < 0 ? high : g_[size_t(c)] - g_[size_t(c)]);
    }
}

// Sets `to` to the point of the orthant nearest to x + t d; returns the decrease that the slopes promise, below 0.
double QuasiNewton::project(double t, Vector& to) const {
    double expected = 0;
    for (int64_t c = 0; c < size_; ++c) {
        double at = x_[c] + t * d_[size_t(c)];
        if (c < p_.m * p_.classes) {
            const double side = x_[c] != 0 ? x_[c] : -slopes_[size_t(c)];
            if (!(side > 0 ? at > 0 : side < 0 && at < 0)) at = 0;
        }
        expected += slopes_[size_t(c)] * (at - x_[c]);
        to[size_t(c)] = at;
    }
    return expected;
}

// Subtracts from the coefficients of each column a median of all classes, which changes no loss: the losses are blind to
// a common shift, and l1 is least there. Without it, steps would have to find a minimum with a kink.
void QuasiNewton::shift_classes(Vector& x) const {
    const int64_t K = p_.classes;
    Vector sorted;
    for (int64_t j = 0; j < p_.m && K > 1; ++j) {
        double* own = x.data() + j * K;
        int64_t above = 0, below = 0;
        for (int64_t k = 0; k < K; ++k) {
            above += own[k] > 0;
            below += own[k] < 0;
        }
        if (above <= K / 2 && below <= K / 2) continue; // 0 is a median
        sorted.assign(own, own + K);
        std::sort(sorted.begin(), sorted.end());
        const double by = std::clamp(0.0, sorted[size_t((K - 1) / 2)], sorted[size_t(K / 2)]);
        for (int64_t k = 0; k < K; ++k) own[k] -= by;
    }
}

// Halves the step until the objective decreases enough; false: it does not, and nothing has changed.
bool QuasiNewton::move_in_orthant() {
    Vector trial(static_cast<size_t>(size_));
    for (double t = 1; t > kShortest; t /= 2) {
        const double expected = project(t, trial);
        shift_classes(trial);
        product(trial, z_);
        const double value = along(0).value + penalty(trial.data());
        if (!(value <= objective_ + kDecrease * expected + kRounding * std::abs(objective_))) continue;
        for (int64_t c = 0; c < size_; ++c) d_[size_t(c)] = trial[size_t(c)] - x_[c];
        std::copy(trial.begin(), trial.end(), x_);
        const Vector before = g_;
        objective_ = value;
        renew_gradient();
        remember(d_, before);
        return true;
    }
    std::copy(x_, x_ + size_, trial.begin());
    product(trial, z_);
    along(0);
    return false;
}

} // namespace fastiter::bcd
