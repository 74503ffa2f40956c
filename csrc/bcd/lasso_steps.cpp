// Steps of the lasso in all coordinates of a support: extrapolations of sweeps, and Newton steps.
#include "bcd/lasso.hpp"
#include "bcd/solver.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastiter::bcd {
namespace {

// Points from which a sequence of sweeps is extrapolated; operations of a product of dense vectors in a Gram matrix or
// a Cholesky factor, against those of a sweep; entries of Gram matrices that are always permitted
constexpr size_t kPoints = 6;
constexpr double kBlocked = 0.125, kSmall = 0x1p20, kScattered = 4;
constexpr size_t kRows = 32;

} // namespace

Grams::Grams(const Matrix& a, const double* mean, double total)
    : a_(a), mean_(mean), total_(total), limit_(std::max(kSmall, 2 * double(a.entries() + a.n + a.m))) {}

double Grams::work(const List& columns) const {
    double fresh = 0, entries = entries_;
    for (int32_t j : columns)
        if (place_.empty() || place_[size_t(j)] < 0) {
            ++fresh;
            entries += double(a_.entries(j));
        }
    return fresh * entries * (a_.start ? kScattered : kBlocked);
}

bool Grams::fits(const List& columns) const { return 1.5 * double(columns.size()) * double(columns.size()) <= limit_; }

void Grams::add(const List& columns, Vector& buffer) {
    if (place_.empty()) place_.assign(size_t(a_.m), -1);
    List fresh;
    for (int32_t j : columns)
        if (place_[size_t(j)] < 0) fresh.push_back(j);
    const double size = double(members_.size() + fresh.size());
    if (size * size / 2 + double(columns.size()) * double(columns.size()) > limit_) { // keeps these columns only
        for (int32_t j : members_) place_[size_t(j)] = -1;
        members_.clear();
        rows_.clear();
        entries_ = 0;
        fresh = columns;
    }
    Vector work(a_.start ? size_t(a_.n) : 0);
    for (size_t begin = 0; begin < fresh.size(); begin += kRows) {
        const size_t rows = std::min(kRows, fresh.size() - begin), old = members_.size();
        for (size_t r = 0; r < rows; ++r) {
            const int32_t j = fresh[begin + r];
            place_[size_t(j)] = int32_t(members_.size());
            entries_ += double(a_.entries(j));
            members_.push_back(j);
        }
        buffer.resize(rows * members_.size());
        a_.gram({fresh.data() + begin, int64_t(rows), members_.data(), int64_t(members_.size()), work.data(),
                 buffer.data()});
        for (size_t r = 0; r < rows; ++r) {
            const double* row = buffer.data() + r * members_.size();
            rows_.emplace_back(row, row + old + r + 1);
            if (!mean_) continue;
            const double by = mean_[fresh[begin + r]] * total_;
            for (size_t c = 0; c <= old + r; ++c) rows_.back()[c] -= by * mean_[members_[c]];
        }
    }
}

void Grams::matrix(const List& columns, double l2, Vector& h) const {
    const size_t n = columns.size();
    h.resize(n * n);
    for (size_t r = 0; r < n; ++r) {
        const int32_t own = place_[size_t(columns[r])];
        for (size_t c = 0; c <= r; ++c) {
            const int32_t other = place_[size_t(columns[c])];
            h[r * n + c] = rows_[size_t(std::max(own, other))][size_t(std::min(own, other))];
        }
        h[r * n + r] += l2;
    }
}

bool reduce(const Matrix& a, const double* b, double* h, const Team& team) {
    const size_t m = size_t(a.m), size = m + 1;
    std::fill(h, h + size * size, 0.0);
    List all(m);
    std::iota(all.begin(), all.end(), 0);
    Vector work(a.start ? size_t(a.n) : 0), buffer;
    for (size_t begin = 0; begin < m; begin += kRows) {
        const size_t rows = std::min(kRows, m - begin), columns = begin + rows;
        buffer.resize(rows * columns);
        a.gram({all.data() + begin, int64_t(rows), all.data(), int64_t(columns), work.data(), buffer.data()});
        for (size_t r = 0; r < rows; ++r)
            std::copy_n(buffer.data() + r * columns, begin + r + 1, h + (begin + r) * size);
        if (has_to_stop(team, a.n * int64_t(rows * columns) / 8)) return false;
    }
    a.products(b, h + m * size, 1);
    const Columns<double> target{a.n, 1, nullptr, nullptr, b};
    h[m * size + m] = kernels().of<KernelsOf<double>>().dot(target, 0, b);
    return kernels().cholesky(h, int64_t(size));
}

// Stores the coordinates and the residual after a sweep.
void Lasso::remember(const List& support) {
    const size_t k = points_.size();
    if (k >= kPoints) return;
    points_.emplace_back();
    if (residuals_.size() <= k) {
        residuals_.emplace_back();
        sums_.push_back(0);
    }
    for (int32_t j : support) points_[k].push_back(x_[j]);
    residuals_[k] = v_;
    sums_[k] = sum_;
}

// Anderson's extrapolation: the affine combination of the last points whose differences nearly cancel, if its objective
// is lower
void Lasso::extrapolate(double l1, const List& support) {
    if (points_.size() < kPoints) return;
    const size_t n = support.size(), last = kPoints - 1;
    Vector h(last * last), weight(last, 1.0);
    for (size_t r = 0; r < last; ++r)
        for (size_t c = 0; c < last; ++c) {
            double sum = 0;
            for (size_t k = 0; k < n && c <= r; ++k)
                sum += curvature_[size_t(support[k])] * (points_[r + 1][k] - points_[r][k]) *
                       (points_[c + 1][k] - points_[c][k]);
            h[r * last + c] = sum;
        }
    bool is_better = regular_cholesky(h, last);
    if (is_better) {
        solve_cholesky(h, last, weight);
        double total = 0;
        for (double each : weight) total += each;
        Vector point(n), residual(v_.size());
        double sum = 0;
        for (size_t r = 0; r < last; ++r) {
            const double share = weight[r] / total;
            for (size_t k = 0; k < n; ++k) point[k] += share * points_[r + 1][k];
            for (size_t i = 0; i < residual.size(); ++i) residual[i] += share * residuals_[r + 1][i];
            sum += share * sums_[r + 1];
        }
        const bool is_feasible =
            !p_.nonnegative || std::none_of(point.begin(), point.end(), [](double x) { return x < 0; });
        is_better = is_feasible && value(l1, support, point.data(), residual, sum) <
                                       value(l1, support, points_[last].data(), v_, sum_);
        if (is_better) {
            for (size_t k = 0; k < n; ++k) x_[support[k]] = point[k];
            v_.swap(residual);
            sum_ = sum;
        }
    }
    points_.clear();
}

double Lasso::newton_work(const List& support) const {
    if (!grams_.fits(support)) return HUGE_VAL;
    const double n = double(support.size());
    return grams_.work(support) + kBlocked * n * n * n / 3 + n * n + 2 * work(support);
}

// A step to the minimum for the present signs, as far as that lowers the objective
bool Lasso::newton(double l1, const List& columns) {
    List support;
    for (int32_t j : columns)
        if (x_[j] != 0) support.push_back(j);
    const size_t n = support.size();
    grams_.add(support, h_);
    grams_.matrix(support, p_.l2, h_);
    Vector d;
    products(support, d);
    for (size_t k = 0; k < n; ++k) {
        const double x = x_[support[k]];
        d[k] = -(d[k] + p_.l2 * x + (x > 0 ? l1 : (x < 0 ? -l1 : 0)));
    }
    is_stopped_ = has_to_stop(*team_, int64_t(newton_work(support)));
    if (!regular_cholesky(h_, n)) return false;
    solve_cholesky(h_, n, d);
    double share = 1;
    for (size_t k = 0; k < n; ++k) {
        const double x = x_[support[k]];
        if (!std::isfinite(d[k])) return false;
        if ((x + d[k]) * x < 0) share = std::min(share, -x / d[k]);
    }
    return try_step(l1, support, d, 1) || (share < 1 && try_step(l1, support, d, share));
}

// Moves by a share of d, coordinates that would change their sign to 0, if that lowers the objective.
bool Lasso::try_step(double l1, const List& support, const Vector& d, double share) {
    const size_t n = support.size();
    Vector x(n), point(n), residual = v_;
    double sum = sum_;
    for (size_t k = 0; k < n; ++k) {
        x[k] = point[k] = x_[support[k]];
        point[k] += share * d[k];
        if (point[k] * x[k] <= 0 || std::abs(point[k]) <= 0x1p-52 * std::abs(d[k])) point[k] = 0;
        if (point[k] != x[k]) add_column(support[k], point[k] - x[k], residual, sum);
    }
    if (!(value(l1, support, point.data(), residual, sum) < value(l1, support, x.data(), v_, sum_))) return false;
    for (size_t k = 0; k < n; ++k) x_[support[k]] = point[k];
    v_.swap(residual);
    sum_ = sum;
    return true;
}

} // namespace fastiter::bcd
