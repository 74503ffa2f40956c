// Updates of a block: the minimiser of a model of the objective, and the length of the step.
#include "bcd/solver.hpp"
#include <algorithm>
#include <cmath>

namespace fastiter::bcd {
namespace {

// A two-metric step treats a coordinate as held by a bound if it is this close to it and the gradient pushes against
// it.
constexpr double kNearBound = 1e-4;
constexpr double kDecrease = 1e-4; // the constant in Armijo's condition
constexpr int kHalvings = 50;
// Largest blocks of logistic losses whose matrix is formed: without l1 and bounds, and with them
constexpr size_t kSmooth = 2048, kLargest = 256;
// Limits of solving a model by sweeps: kInner, the reduction of the largest slope; kRounds, the number of sweeps over
// all coordinates; kShort, the number of sweeps over the support between two of these.
constexpr double kRidge = 1e-12; // keeps the curvature positive; relative to its upper bound
constexpr double kInner = 0.1;
constexpr int kRounds = 50, kShort = 8;

double nearest(double v, double threshold, double lower, double upper) {
    const double y = v > threshold ? v - threshold : (v < -threshold ? v + threshold : v - v);
    return std::min(std::max(y, lower), upper);
}

} // namespace

bool cholesky(Vector& h, size_t n) { return kernels().cholesky(h.data(), int64_t(n)); }

bool regular_cholesky(Vector& h, size_t n) {
    const Vector complete = h;
    double ridge = 0x1p-40;
    for (int tries = 0; tries < 30; ++tries, ridge *= 16) {
        if (cholesky(h, n)) return true;
        h = complete;
        for (size_t s = 0; s < n; ++s) h[s * n + s] += ridge * (complete[s * n + s] > 0 ? complete[s * n + s] : 1);
    }
    return false;
}

void solve_cholesky(const Vector& factor, size_t n, Vector& x) {
    kernels().solve_cholesky(factor.data(), int64_t(n), x.data());
}

// The derivative by coordinate c of the losses and the l2 penalty, without l1
double Solver::gradient_of(int32_t c) const {
    const double ridge = p_.s.l2[c] * x_[c];
    if (p_.loss == Loss::quadratic) return u_[size_t(c)] + ridge;
    if (maintains_) return g_[size_t(c)] + ridge;
    if (is_known_) return known_[size_t(c)] + ridge;
    return p_.a->dot(c / p_.classes, u_.data() + (c % p_.classes) * p_.a->n) + ridge;
}

// The second derivative of the loss of row i in the products of classes c and k, or its upper bound
double Solver::pair_weight(int64_t i, int64_t c, int64_t k, bool exact) const {
    const double weight = p_.weight ? p_.weight[i] : 1;
    if (p_.loss == Loss::squares) return 1;
    if (!exact) return weight * (p_.loss == Loss::logistic ? 0.25 : ((c == k) - 1.0 / double(p_.classes)) / 2);
    if (weight == 0) return 0;
    const auto probability = [&](int64_t j) {
        const double own = p_.loss == Loss::logistic ? p_.b[i] : double(int64_t(p_.b[i]) == j);
        return u_[size_t(j * p_.a->n + i)] / weight + own;
    };
    const double of_c = probability(c);
    if (p_.loss == Loss::logistic) return weight * of_c * (1 - of_c);
    return weight * of_c * ((c == k) - probability(k));
}

// H_b (size, size): the matrix of the upper bound, or the exact second derivatives
Vector Solver::block_matrix(const List& block, bool exact) {
    const Matrix& a = *p_.a;
    const size_t size = block.size();
    Vector h(size * size);
    for (size_t s = 0; s < size; ++s) {
        const int64_t j = block[s] / p_.classes, c = block[s] % p_.classes;
        clear_touched();
        touch(int32_t(j));
        int64_t class_now = -1;
        for (size_t t = 0; t <= s; ++t) {
            const int64_t k = block[t] / p_.classes, other = block[t] % p_.classes;
            if (other != class_now) {
                for (int32_t i : touched_) buffer_[size_t(i)] = 0;
                a.add(j, 1, buffer_.data());
                if (p_.loss != Loss::squares && p_.loss != Loss::quadratic)
                    for (int32_t i : touched_) buffer_[size_t(i)] *= pair_weight(i, c, other, exact);
                class_now = other;
            }
            const double value = p_.loss == Loss::quadratic ? buffer_[size_t(k)] : a.dot(k, buffer_.data());
            h[s * size + t] = h[t * size + s] = value;
        }
        for (int32_t i : touched_) buffer_[size_t(i)] = 0;
        h[s * size + s] += p_.s.l2[block[s]];
    }
    return h;
}

// L_b, an upper bound of the eigenvalues of H_b. For a variable block, the smaller of its trace and its largest row
// sum.
double Solver::bound_of(const List& block, int64_t id) {
    if (id >= 0) return blocks_.bound[id];
    double trace = 0;
    for (int32_t c : block) trace += p_.s.curvature[c];
    constexpr size_t kLargest = 256; // largest block whose matrix is worth its cost
    if (block.size() == 1 || block.size() > kLargest) return trace;
    const Vector h = block_matrix(block, false);
    double largest = 0;
    for (size_t s = 0; s < block.size(); ++s) {
        double sum = 0;
        for (size_t t = 0; t < block.size(); ++t) sum += std::abs(h[s * block.size() + t]);
        largest = std::max(largest, sum);
    }
    return largest > 0 ? std::min(trace, largest) : trace;
}

// Sets d to the minimiser of g d + d H d / 2 plus the separable part at x + d; by coordinate descent if that part is
// not smooth or H is singular.
void Solver::solve_model(const List& block, const Vector& h, const Vector& g, Vector& d) const {
    const size_t n = block.size();
    if (p_.is_smooth) {
        Vector factor = h;
        if (cholesky(factor, n)) {
            for (size_t s = 0; s < n; ++s) d[s] = -g[s];
            return solve_cholesky(factor, n, d);
        }
    }
    Vector v = g;
    double largest = 0;
    std::fill(d.begin(), d.end(), 0.0);
    for (size_t s = 0; s < n; ++s) largest = std::max(largest, std::abs(g[s]) + p_.s.l1[block[s]]);
    for (int sweep = 0; sweep < 2000; ++sweep) {
        double moved = 0;
        for (size_t s = 0; s < n; ++s) {
            const int32_t c = block[s];
            const double curvature = h[s * n + s] > 0 ? h[s * n + s] : p_.s.curvature[c];
            const double now =
                nearest(x_[c] + d[s] - v[s] / curvature, p_.s.l1[c] / curvature, p_.s.lower[c], p_.s.upper[c]);
            const double by = now - (x_[c] + d[s]);
            if (by == 0) continue;
            d[s] += by;
            moved = std::max(moved, curvature * std::abs(by));
            for (size_t t = 0; t < n; ++t) v[t] += by * h[t * n + s];
        }
        if (!(moved > 1e-13 * largest)) break;
    }
}

// Approximates the same d for logistic losses without forming H, with fixed weights: by sweeps over the coordinates
// that are nonzero or have a nonzero slope, most of them over the nonzero ones only.
void Solver::sweep_model(const List& block, const Vector& g, Vector& d) {
    const Matrix& a = *p_.a;
    const size_t n = size_t(a.n), m = size_t(p_.coordinates());
    weight_.resize(n);
    curvature_.resize(m);
    target_.assign(x_, x_ + m);
    r_ = u_;
    for (size_t i = 0; i < n; ++i) { // p (1 - p) = |p - b| (1 - |p - b|)
        const double weight_i = p_.weight ? p_.weight[i] : 1, size = std::abs(u_[i]);
        weight_[i] = weight_i > 0 ? size * std::max(1 - size / weight_i, 0.0) : 0;
    }
    List working, support;
    double largest = 0;
    for (size_t s = 0; s < block.size(); ++s) {
        const int32_t c = block[s];
        const double steepness = std::abs(slope(c, g[s] - p_.s.l2[c] * x_[c]));
        if (steepness == 0 && x_[c] == 0) continue;
        working.push_back(c);
        largest = std::max(largest, steepness);
        curvature_[size_t(c)] = a.squares(c, weight_.data()) + p_.s.l2[c] + kRidge * p_.s.curvature[c];
    }
    ModelState model{p_.s, target_.data(), r_.data(), weight_.data(), nullptr, 0};
    model.s.curvature = curvature_.data();
    const int64_t each = a.start ? a.start[a.m] / std::max<int64_t>(a.m, 1) : a.n;
    const auto sweep = [&](const List& list) {
        model.order = list.data();
        model.count = int64_t(list.size());
        const double moved = a.sweep(model);
        return moved > kInner * largest && !has_to_stop(*team_, model.count * each);
    };
    for (int round = 0; round < kRounds && sweep(working); ++round) {
        support.clear();
        for (int32_t c : working)
            if (target_[size_t(c)] != 0) support.push_back(c);
        for (int k = 0; k < kShort && sweep(support); ++k) {
        }
    }
    for (size_t s = 0; s < block.size(); ++s) d[s] = target_[size_t(block[s])] - x_[block[s]];
}

// The change of the objective from x to x + t d, minus an allowance for rounding
double Solver::change_along(const List& block, const Vector& d, double t) {
    const Matrix& a = *p_.a;
    double change = 0, size = 0;
    for (size_t s = 0; s < block.size(); ++s) {
        const int32_t c = block[s];
        const double y = x_[c] + t * d[s];
        change += p_.s.l1[c] * (std::abs(y) - std::abs(x_[c])) + p_.s.l2[c] * (y * y - x_[c] * x_[c]) / 2;
    }
    clear_touched();
    for (size_t s = 0; s < block.size(); ++s) {
        touch(int32_t(block[s] / p_.classes));
        a.add(block[s] / p_.classes, t * d[s], delta_.data() + (block[s] % p_.classes) * a.n);
    }
    for (int32_t i : touched_) {
        for (int64_t k = 0; k < p_.classes; ++k) {
            double& by = delta_[size_t(k * a.n + i)];
            ahead_[size_t(k)] = z_[size_t(k * a.n + i)] + by;
            by = 0;
        }
        const double before = loss_of_row(i, z_.data() + i, a.n);
        change += loss_of_row(i, ahead_.data(), 1) - before;
        size += before;
    }
    return change - 0x1p-50 * size;
}

// Halves d until the objective decreases enough; a quadratic model that is exact needs no search.
void Solver::search(const List& block, const Vector& g, Vector& d) {
    if (p_.loss == Loss::squares || p_.loss == Loss::quadratic) return;
    double expected = 0;
    for (size_t s = 0; s < block.size(); ++s) {
        const double x = x_[block[s]];
        expected += g[s] * d[s] + p_.s.l1[block[s]] * (std::abs(x + d[s]) - std::abs(x));
    }
    double t = 1;
    int halvings = 0;
    while (halvings < kHalvings && !(change_along(block, d, t) <= kDecrease * t * expected)) {
        t /= 2;
        ++halvings;
    }
    for (double& by : d) by *= halvings < kHalvings ? t : 0;
}

// A Newton step in the free coordinates and a scaled gradient step in those held by a bound, both projected, with a
// line search along the projected path
void Solver::two_metric(const List& block, const Vector& h, const Vector& g, Vector& d) {
    const size_t n = block.size();
    Vector direction(n), model = h;
    const auto is_fixed = [&](size_t s) {
        const int32_t c = block[s];
        return (x_[c] < p_.s.lower[c] + kNearBound && g[s] > 0) || (x_[c] > p_.s.upper[c] - kNearBound && g[s] < 0);
    };
    for (size_t s = 0; s < n; ++s)
        for (size_t t = 0; t < n; ++t)
            if (s != t && (is_fixed(s) || is_fixed(t))) model[s * n + t] = 0;
    for (size_t s = 0; s < n; ++s) {
        if (!(model[s * n + s] > 0)) model[s * n + s] = p_.s.curvature[block[s]];
        direction[s] = -g[s];
    }
    if (!regular_cholesky(model, n)) return std::fill(d.begin(), d.end(), 0.0);
    solve_cholesky(model, n, direction);
    const bool is_exact = p_.loss == Loss::squares || p_.loss == Loss::quadratic;
    double t = 1;
    for (int halvings = 0; halvings < kHalvings; ++halvings, t /= 2) {
        double expected = 0, change = 0;
        for (size_t s = 0; s < n; ++s) {
            const int32_t c = block[s];
            d[s] = std::min(std::max(x_[c] + t * direction[s], p_.s.lower[c]), p_.s.upper[c]) - x_[c];
            expected += g[s] * d[s];
        }
        if (is_exact) {
            change = expected;
            for (size_t s = 0; s < n; ++s)
                for (size_t k = 0; k < n; ++k) change += d[s] * h[s * n + k] * d[k] / 2;
        } else {
            change = change_along(block, d, 1);
        }
        if (change <= kDecrease * expected) return;
    }
    std::fill(d.begin(), d.end(), 0.0);
}

void Solver::update_block(const List& block, int64_t id) {
    const size_t n = block.size();
    Vector g(n), d(n);
    for (size_t s = 0; s < n; ++s) g[s] = gradient_of(block[s]);
    if (update_ == Update::gradient) {
        const double bound = bound_of(block, id);
        for (size_t s = 0; s < n; ++s) {
            const int32_t c = block[s];
            d[s] = nearest(x_[c] - g[s] / bound, p_.s.l1[c] / bound, p_.s.lower[c], p_.s.upper[c]) - x_[c];
        }
    } else if (p_.loss == Loss::logistic && update_ == Update::newton && n > (p_.is_smooth ? kSmooth : kLargest)) {
        sweep_model(block, g, d);
        search(block, g, d);
    } else {
        const Vector h = block_matrix(block, update_ != Update::matrix);
        if (update_ == Update::two_metric) {
            // A bound at 0 fixes the sign of x, so that l1 |x| is linear.
            for (size_t s = 0; s < n; ++s) g[s] += p_.s.lower[block[s]] >= 0 ? p_.s.l1[block[s]] : -p_.s.l1[block[s]];
            two_metric(block, h, g, d);
        } else {
            solve_model(block, h, g, d);
            if (update_ == Update::newton) search(block, g, d);
        }
    }
    move(block, d);
}

} // namespace fastiter::bcd
