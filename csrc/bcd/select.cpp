// Greedy rules: the block with the largest scores, from the maintained gradient, by partial selection.
#include "bcd/solver.hpp"
#include <algorithm>
#include <cmath>

namespace fastiter::bcd {

// The decrease of the one-dimensional model of coordinate c, which has its curvature
double Solver::model_decrease(int64_t c, double g) const {
    const double curvature = p_.s.curvature[c], x = x_[c], l1 = p_.s.l1[c];
    g += p_.s.l2[c] * x;
    const double v = x - g / curvature, t = l1 / curvature;
    double y = v > t ? v - t : (v < -t ? v + t : v - v);
    y = std::min(std::max(y, p_.s.lower[c]), p_.s.upper[c]);
    return -(g * (y - x) + curvature * (y - x) * (y - x) / 2 + l1 * (std::abs(y) - std::abs(x)));
}

// g H_b^-1 g, with cached factors: H_b of the upper bound does not change
double Solver::cached_quadratic_form(int64_t id, const Vector& g) {
    const size_t n = g.size();
    if (factors_.empty()) factors_.resize(size_t(blocks_.count));
    Vector& factor = factors_[size_t(id)];
    if (factor.empty()) {
        factor = block_matrix(List(blocks_.member + blocks_.start[id], blocks_.member + blocks_.start[id + 1]), false);
        if (!regular_cholesky(factor, n)) std::fill(factor.begin(), factor.end(), HUGE_VAL);
    }
    Vector x = g;
    solve_cholesky(factor, n, x);
    double sum = 0;
    for (size_t s = 0; s < n; ++s) sum += x[s] * g[s];
    return sum;
}

int64_t Solver::choose_fixed() {
    const Vector& gradient = p_.loss == Loss::quadratic ? u_ : g_;
    int64_t best = 0;
    double largest = -1;
    Vector g;
    for (int64_t id = 0; id < blocks_.count; ++id) {
        double score = 0;
        g.clear();
        for (int64_t e = blocks_.start[id]; e < blocks_.start[id + 1]; ++e) {
            const int32_t c = blocks_.member[e];
            const double s = slope(c, gradient[size_t(c)]);
            if (rule_ == Rule::gsq && p_.is_smooth)
                g.push_back(s);
            else if (rule_ == Rule::gsq)
                score += model_decrease(c, gradient[size_t(c)]);
            else
                score += s * s / (rule_ == Rule::gsd ? p_.s.curvature[c] : 1);
        }
        if (rule_ == Rule::gsl) score /= blocks_.bound[id];
        if (!g.empty()) score = cached_quadratic_form(id, g);
        if (score > largest) {
            largest = score;
            best = id;
        }
    }
    return best;
}

// out = H d, with the H of the upper bound
void Solver::hessian_product(const Vector& d, Vector& out) const {
    const Matrix& a = *p_.a;
    const int64_t classes = p_.classes;
    Vector image(size_t(a.n) * size_t(classes));
    for (int64_t c = 0; c < p_.coordinates(); ++c)
        if (d[size_t(c)] != 0) a.add(c / classes, d[size_t(c)], image.data() + (c % classes) * a.n);
    for (int64_t i = 0; i < a.n && p_.loss != Loss::quadratic; ++i) {
        double mean = 0;
        for (int64_t k = 0; k < classes; ++k) mean += image[size_t(k * a.n + i)] / double(classes);
        const double weight = p_.weight ? p_.weight[i] : 1;
        for (int64_t k = 0; k < classes; ++k) {
            double& value = image[size_t(k * a.n + i)];
            if (p_.loss == Loss::softmax) value = weight * (value - mean) / 2;
            if (p_.loss == Loss::logistic) value *= weight / 4;
        }
    }
    for (int64_t c = 0; c < p_.coordinates(); ++c) out[size_t(c)] = p_.s.l2[c] * d[size_t(c)];
    if (p_.loss == Loss::quadratic)
        for (int64_t c = 0; c < a.n; ++c) out[size_t(c)] += image[size_t(c)];
    else
        for (int64_t k = 0; k < classes; ++k) a.products(image.data() + k * a.n, out.data() + k, classes);
}

// Scores L_i d_i^2 after ten steps d <- the largest entries of d - mu (s + H d) / L. They approximate the block with
// the lowest model value: a gradient method with hard thresholding in the norm of the L_i, whose first step selects the
// largest s_i^2 / L_i.
void Solver::hard_thresholded(Vector& scores) {
    const size_t m = scores.size(), size = std::min(size_t(blocks_.size), m);
    const double* curvature = p_.s.curvature;
    Vector d(m), product(m);
    if (step_size_ == 0) { // the inverse of the largest eigenvalue of H / L
        double norm = 0;
        for (size_t c = 0; c < m; ++c) norm += curvature[c];
        norm = std::sqrt(norm);
        std::fill(d.begin(), d.end(), 1.0);
        for (int i = 0; i < 30; ++i) {
            for (double& value : d) value /= norm;
            hessian_product(d, product);
            norm = 0;
            for (size_t c = 0; c < m; ++c) {
                d[c] = product[c] / curvature[c];
                norm += product[c] * d[c];
            }
            norm = std::sqrt(norm);
            if (!(norm > 0)) break;
        }
        step_size_ = norm > 0 ? 1 / (1.05 * norm) : 1;
        std::fill(d.begin(), d.end(), 0.0);
    }
    std::vector<std::pair<double, int32_t>> order(m);
    for (int i = 0; i < 10; ++i) {
        hessian_product(d, product);
        for (size_t c = 0; c < m; ++c) {
            d[c] -= step_size_ * (scores[c] + product[c]) / curvature[c];
            order[c] = {std::isnan(d[c]) ? -HUGE_VAL : -curvature[c] * d[c] * d[c], int32_t(c)};
        }
        std::nth_element(order.begin(), order.begin() + std::ptrdiff_t(size - 1), order.end());
        for (size_t k = size; k < m; ++k) d[size_t(order[k].second)] = 0;
    }
    for (size_t c = 0; c < m; ++c) scores[c] = curvature[c] * d[c] * d[c];
}

void Solver::choose_variable(List& block) {
    const Vector& gradient = p_.loss == Loss::quadratic ? u_ : g_;
    const size_t m = size_t(p_.coordinates()), size = std::min(size_t(blocks_.size), m);
    Vector scores(m);
    for (size_t c = 0; c < m; ++c) scores[c] = slope(int64_t(c), gradient[c]);
    if (rule_ == Rule::gsq) {
        const auto decrease = [&](size_t c) { return scores[c] * scores[c] / p_.s.curvature[c]; };
        size_t steepest = 0; // always included, which guarantees progress
        for (size_t c = 1; c < m; ++c)
            if (decrease(c) > decrease(steepest)) steepest = c;
        hard_thresholded(scores);
        scores[steepest] = HUGE_VAL;
    } else
        for (size_t c = 0; c < m; ++c) {
            const double s = scores[c] * scores[c];
            scores[c] = rule_ == Rule::gsd ? s / p_.s.curvature[c] : (rule_ == Rule::gsl ? s / blocks_.sums[c] : s);
        }
    for (double& score : scores) score = std::isnan(score) ? HUGE_VAL : score; // NaN would break the ordering
    if (order_.size() != m) order_.resize(m);
    for (size_t c = 0; c < m; ++c) order_[c] = int32_t(c);
    const auto larger = [&](int32_t a, int32_t b) {
        return scores[size_t(a)] > scores[size_t(b)] || (scores[size_t(a)] == scores[size_t(b)] && a < b);
    };
    std::nth_element(order_.begin(), order_.begin() + std::ptrdiff_t(size - 1), order_.end(), larger);
    block.assign(order_.begin(), order_.begin() + std::ptrdiff_t(size));
    std::sort(block.begin(), block.end());
}

} // namespace fastiter::bcd
