// Working sets, duality gaps and sweeps of the lasso.
#include "bcd/lasso.hpp"
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace fastiter::bcd {
namespace {

// Entrants of a working set at least; sweeps over one working set, and over its support between two of them, at most
constexpr int64_t kEntrants = 64, kSweeps = 1000, kSupportSweeps = 50;
// The accuracy within a working set that rounding permits, as a fraction of the tolerance
constexpr double kSmallestShare = 0x1p-40, kTiny = 0x1p-1000;
// Operations to which the entry of a compressed column, and a column by itself, are equivalent
constexpr double kScattered = 4, kColumn = 16;

double dot(const double* a, const double* b, int64_t n) {
    const Columns<double> column{n, 1, nullptr, nullptr, a};
    return kernels().of<KernelsOf<double>>().dot(column, 0, b);
}

} // namespace

Lasso::Lasso(const LassoProblem& problem, double* x)
    : p_(problem), x_(x), mean_(problem.ones ? size_t(problem.a->m) : 0), squares_(size_t(problem.a->m)),
      total_(problem.ones ? dot(problem.ones, problem.ones, problem.a->n) : 0),
      grams_(*problem.a, problem.ones ? mean_.data() : nullptr, total_) {
    const Matrix& a = *p_.a;
    if (!p_.ones) squares_.assign(p_.squares, p_.squares + a.m);
    for (int64_t j = 0; p_.ones && j < a.m; ++j) {
        mean_[size_t(j)] = a.dot(j, p_.ones) / total_;
        squares_[size_t(j)] = a.centred_squares(j, mean_[size_t(j)], p_.ones, total_);
    }
    curvature_ = inverse_ = squares_;
    for (size_t j = 0; j < squares_.size(); ++j) { // the inverse of a subnormal curvature may overflow
        const double whole = squares_[j] + p_.l2;
        const bool is_used = squares_[j] > 0 && !(whole < std::numeric_limits<double>::min());
        curvature_[j] = is_used ? whole : 0;
        inverse_[j] = is_used ? 1 / whole : 0;
    }
    for (int64_t j = 0; j < a.m; ++j)
        if (inverse_[size_t(j)] > 0) used_.push_back(int32_t(j));
    norm_ = dot(p_.b, p_.b, a.n);
    g_.assign(size_t(a.m), 0);
    computed_at_.assign(size_t(a.m), -HUGE_VAL);
    start();
}

void Lasso::start() {
    const Matrix& a = *p_.a;
    v_.resize(size_t(a.n));
    for (int64_t i = 0; i < a.n; ++i) v_[size_t(i)] = -p_.b[i];
    sum_ = p_.ones ? dot(p_.ones, v_.data(), a.n) : 0;
    for (int64_t j = 0; j < a.m; ++j) {
        if (curvature_[size_t(j)] <= 0) x_[j] = 0;
        if (x_[j] != 0) add_column(j, x_[j], v_, sum_);
    }
    centre();
    before_ = v_;
    std::fill(computed_at_.begin(), computed_at_.end(), -HUGE_VAL);
}

void Lasso::add_column(int64_t j, double d, Vector& v, double& sum) const {
    p_.a->add(j, d, v.data());
    if (p_.ones) sum += d * mean_[size_t(j)] * total_;
}

void Lasso::products(const List& columns, Vector& out) const {
    out.resize(columns.size());
    p_.a->products_of(columns, v_.data(), out.data());
    for (size_t k = 0; p_.ones && k < columns.size(); ++k) out[k] -= mean_[size_t(columns[k])] * sum_;
}

double Lasso::work(int64_t j) const { return (p_.a->start ? kScattered : 1) * double(p_.a->entries(j)) + kColumn; }

double Lasso::work(const List& columns) const {
    double sum = 0;
    for (int32_t j : columns) sum += work(j);
    return sum;
}

// Makes v the residual itself.
void Lasso::centre() {
    if (!p_.ones) return;
    const double by = sum_ / total_;
    for (int64_t i = 0; i < p_.a->n; ++i) v_[size_t(i)] -= by * p_.ones[i];
    sum_ = dot(p_.ones, v_.data(), p_.a->n);
}

// Computes products where they may exceed l1, and in the support. The path of the residual since bounds the others.
void Lasso::refresh(double l1) {
    centre();
    double squares = 0;
    for (size_t i = 0; i < v_.size(); ++i) squares += (v_[i] - before_[i]) * (v_[i] - before_[i]);
    moved_ += std::sqrt(squares) * (1 + 1e-12);
    before_ = v_;
    stale_.clear();
    for (int64_t j = 0; j < p_.a->m; ++j) {
        const size_t k = size_t(j);
        if (curvature_[k] <= 0) continue;
        const double drift = moved_ - computed_at_[k];
        if (x_[j] == 0 && (drift == 0 || rising(j) + std::sqrt(squares_[k]) * drift <= l1)) continue;
        stale_.push_back(int32_t(j));
        computed_at_[k] = moved_;
    }
    products(stale_, fresh_);
    for (size_t k = 0; k < stale_.size(); ++k) g_[size_t(stale_[k])] = fresh_[k];
    refreshed_ = work(stale_) / 2;
}

double Lasso::largest_slope() {
    refresh(-1);
    double largest = 0;
    for (int64_t j = 0; j < p_.a->m; ++j) largest = std::max(largest, rising(j));
    return largest;
}

double Lasso::squares_of_residual(const Vector& v, double sum) const {
    return dot(v.data(), v.data(), p_.a->n) - (p_.ones ? sum * sum / total_ : 0);
}

// The gap at the dual point s u, where columns below l1 add nothing, and the objective
double Lasso::gap(double l1, double& objective) const {
    const double squares = squares_of_residual(v_, sum_), against = dot(v_.data(), p_.b, p_.a->n);
    double size = 0, norm = 0, largest = 0, over = 0;
    for (int64_t j = 0; j < p_.a->m; ++j) {
        const double x = x_[j], excess = rising(j) - l1;
        if (x != 0) {
            size += std::abs(x);
            norm += x * x;
        }
        if (excess > 0) {
            over += excess * excess;
            largest = std::max(largest, excess);
        }
    }
    objective = squares / 2 + l1 * size + p_.l2 / 2 * norm;
    if (p_.l2 > 0) return objective + squares / 2 + against + over / (2 * p_.l2);
    const double scale = l1 / (l1 + largest);
    return objective + scale * scale * squares / 2 + scale * against;
}

double Lasso::value(double l1, const List& columns, const double* x, const Vector& v, double sum) const {
    double size = 0, norm = 0;
    for (size_t k = 0; k < columns.size(); ++k) {
        size += std::abs(x[k]);
        norm += x[k] * x[k];
    }
    return squares_of_residual(v, sum) / 2 + l1 * size + p_.l2 / 2 * norm;
}

List Lasso::violators(double l1) const {
    List columns;
    for (int64_t j = 0; j < p_.a->m; ++j)
        if (x_[j] == 0 && curvature_[size_t(j)] > 0 && rising(j) > l1) columns.push_back(int32_t(j));
    return columns;
}

// A slope that all coordinates in the support may have for a gap of about `gap`
double Lasso::slope_for(double l1, double gap) const {
    double size = 0, count = 1;
    for (int64_t j = 0; j < p_.a->m; ++j)
        if (x_[j] != 0) {
            size += std::abs(x_[j]);
            ++count;
        }
    return std::max(gap / (size + gap / l1 + kTiny), std::sqrt(p_.l2 * gap / count));
}

LassoEnd Lasso::solve(double l1, double tolerance, int64_t max_steps, const Team& team) {
    team_ = &team;
    is_stopped_ = false;
    spent_ = 0;
    double gap = HUGE_VAL, objective = HUGE_VAL, inner = 1, largest = HUGE_VAL;
    for (int64_t step = 1; step <= max_steps && !is_stopped_; ++step) {
        refresh(l1);
        const double before = gap;
        gap = this->gap(l1, objective);
        if (gap <= tolerance || !std::isfinite(gap)) return {gap, objective, step};
        List entrants = violators(l1);
        if (entrants.empty() && gap > before / 4) {
            inner /= 8; // the working set is right, but was not solved accurately enough
            if (inner < kSmallestShare) return {gap, objective, step};
        }
        // Nearly the right working set is solved for good, by the slope that led to the present gap.
        is_last_ = step > 1 && 64 * entrants.size() <= support_.size();
        const double scale = std::max({tolerance, is_last_ ? 0 : 0.1 * gap, kSmallestShare * norm_});
        double target = inner * slope_for(l1, scale);
        if (entrants.empty() && largest > 0 && std::isfinite(largest))
            target = std::max(target, inner * largest * scale / gap);
        round_ = 0;
        budget_ = 4 * double(step) * refreshed_;
        last_gap_ = std::max(tolerance, kSmallestShare * norm_);
        largest = descend(l1, target, inner, step, std::move(entrants));
    }
    refresh(l1);
    gap = this->gap(l1, objective);
    return {gap, objective, max_steps};
}

double Lasso::sweep(double l1, const List& columns) {
    LassoState state;
    state.curvature = curvature_.data();
    state.inverse = inverse_.data();
    state.mean = p_.ones ? mean_.data() : nullptr;
    state.total = total_;
    state.l1 = l1;
    state.l2 = p_.l2;
    state.lower = p_.nonnegative ? 0 : -HUGE_VAL;
    state.x = x_;
    state.v = v_.data();
    state.sum = sum_;
    double largest = 0;
    changes_ = 0;
    for (size_t done = 0; done < columns.size() && !is_stopped_;) { // in pieces, between which it may be stopped
        double some = 0;
        size_t end = done;
        for (; end < columns.size() && some < 0x1p22; ++end) some += work(columns[end]);
        state.order = columns.data() + done;
        state.count = int64_t(end - done);
        p_.a->sweep(state);
        largest = state.largest > largest || std::isnan(state.largest) ? state.largest : largest;
        changes_ += state.status_changes;
        spent_ += some;
        round_ += some;
        done = end;
        is_stopped_ = has_to_stop(*team_, int64_t(some));
    }
    sum_ = state.sum;
    return largest;
}

// Sweeps over the entrants, the steepest first in sets that grow as long as most of them stay. Columns that explain
// each other thus stay out, while independent ones enter at once. Returns whether all entered and most stay.
bool Lasso::enter(double l1, List entrants) {
    const auto score = [&](int32_t j) { // the expected decrease of the objective
        const double excess = rising(j) - l1;
        return excess * excess / curvature_[size_t(j)];
    };
    const double mean = work(entrants) / double(entrants.size());
    const double affordable = (refreshed_ + double(p_.a->n + p_.a->m)) / 8 / mean;
    size_t limit = std::max({size_t(kEntrants), 2 * support_.size(), size_t(affordable)});
    // as many columns as rows explain anything, and usually no more stay
    const size_t rows = size_t(p_.a->n), max_entries = rows - std::min(rows, support_.size()) + kEntrants;
    size_t entered = 0;
    while (!entrants.empty() && !is_stopped_) {
        List some, rest;
        limit = std::min(limit, max_entries - entered);
        if (limit < entrants.size()) {
            Vector scores;
            for (int32_t j : entrants) scores.push_back(score(j));
            const auto last = scores.begin() + std::ptrdiff_t(limit - 1);
            std::nth_element(scores.begin(), last, scores.end(), std::greater<>());
            for (int32_t j : entrants) (score(j) >= *last ? some : rest).push_back(j);
        } else {
            some.swap(entrants);
        }
        sweep(l1, some);
        working_.insert(working_.end(), some.begin(), some.end());
        entered += some.size();
        const size_t stay = size_t(std::count_if(some.begin(), some.end(), [&](int32_t j) { return x_[j] != 0; }));
        if (2 * stay < some.size() || entered >= max_entries) return false;
        limit = 8 * stay < 7 * some.size() ? 2 * working_.size() : rest.size();
        entrants.swap(rest);
        if (entrants.empty()) return 8 * stay >= 7 * some.size() && is_solved(l1, some);
    }
    return false;
}

// Whether a few of the columns are at their minimum
bool Lasso::is_solved(double l1, const List& columns) {
    List few;
    for (size_t k = 0; k < columns.size(); k += columns.size() / 16 + 1)
        if (x_[columns[k]] != 0) few.push_back(columns[k]);
    products(few, fresh_);
    for (size_t k = 0; k < few.size(); ++k) {
        const double x = x_[few[k]], slope = fresh_[k] + p_.l2 * x + (x > 0 ? l1 : -l1);
        if (std::abs(slope) > 0x1p-20 * std::abs(x) * curvature_[size_t(few[k])]) return false;
    }
    return true;
}

double Lasso::descend(double l1, double target, double last, int64_t step, List entrants) {
    support_.clear();
    for (int64_t j = 0; j < p_.a->m; ++j)
        if (x_[j] != 0) support_.push_back(int32_t(j));
    working_ = support_;
    double largest = support_.empty() ? 0 : sweep(l1, support_);
    if (!entrants.empty()) {
        if (enter(l1, std::move(entrants)) && step == 1) return 0;
        largest = HUGE_VAL;
        List nonzero;
        for (int64_t j = 0; j < p_.a->m; ++j)
            if (x_[j] != 0) nonzero.push_back(int32_t(j));
        if (2 * work(nonzero) >= work(used_)) { // sweeps over all columns need no other working set
            working_ = used_;
            is_last_ = true;
            target = last * slope_for(l1, last_gap_);
        }
    }
    const bool is_check_cheap = refreshed_ <= 4 * work(working_);
    for (int64_t k = 0; k < kSweeps && largest > target && !is_stopped_; ++k) {
        largest = descend_support(l1, target, kSupportSweeps * step);
        if (is_check_cheap || (support_.size() == working_.size() && !(largest > target))) return largest;
        largest = sweep(l1, working_);
    }
    return largest;
}

// Sweeps over the coordinates of the working set that are nonzero, with extrapolations and Newton steps; returns the
// largest change of the gradient in the last sweep.
double Lasso::descend_support(double l1, double target, int64_t max_sweeps) {
    double largest = HUGE_VAL, first = 0, previous = HUGE_VAL;
    points_.clear();
    for (int64_t k = 0; k < max_sweeps && !is_stopped_; ++k) {
        if (points_.empty()) {
            support_.clear();
            for (int32_t j : working_)
                if (x_[j] != 0) support_.push_back(j);
            if (2 * work(support_) >= work(working_)) support_ = working_; // so that others can enter
            remember(support_);
        }
        largest = sweep(l1, support_);
        first = std::max(first, largest);
        // The next sweep's largest change, if the last two converge linearly
        const double ahead =
            changes_ || !(largest < previous && previous < HUGE_VAL) ? largest : largest * largest / previous;
        previous = largest;
        if (!(ahead > target) || (!is_last_ && (largest <= first / 16 || round_ > budget_))) break;
        if (spent_ >= reluctance_ * newton_work(support_)) {
            spent_ = 0;
            reluctance_ = newton(l1, support_) ? 1 : 4 * reluctance_;
            points_.clear();
            previous = HUGE_VAL;
        } else {
            remember(support_);
            extrapolate(l1, support_);
        }
    }
    return largest;
}

} // namespace fastiter::bcd
