// The state of a solve: A x, the derivatives of the losses and the gradient, all updated with x.
#include "bcd/solver.hpp"
#include <algorithm>
#include <cmath>

namespace fastiter::bcd {

Solver::Solver(const Problem& problem, const Blocks& blocks, Rule rule, Update update, double* x)
    : p_(problem), blocks_(blocks), rule_(rule), update_(update), x_(x) {
    maintains_ = rule != Rule::sequence && p_.loss != Loss::quadratic;
    begin();
}

void Solver::begin() {
    const Matrix& a = *p_.a;
    const size_t rows = size_t(a.n) * size_t(p_.classes);
    u_.assign(rows, 0);
    delta_.assign(rows, 0);
    buffer_.assign(size_t(a.n), 0);
    stamp_.assign(size_t(a.n), 0);
    const bool own_z = p_.loss == Loss::logistic || p_.loss == Loss::softmax;
    if (own_z) {
        z_.assign(rows, 0);
        ahead_.assign(size_t(p_.classes), 0);
    }
    Vector& image = own_z ? z_ : u_;
    for (int64_t c = 0; c < p_.coordinates(); ++c)
        if (x_[c] != 0) a.add(c / p_.classes, x_[c], image.data() + (c % p_.classes) * a.n);
    if (own_z)
        for (int64_t i = 0; i < a.n; ++i) refresh_row(i, u_.data());
    else
        for (int64_t i = 0; i < a.n; ++i) u_[size_t(i)] -= p_.b[i];
    if (!maintains_) return;
    g_.assign(size_t(p_.coordinates()), 0);
    gradient(g_.data(), true);
}

// The derivatives of the losses of a row, by class
void Solver::refresh_row(int64_t i, double* u) const {
    const double weight = p_.weight ? p_.weight[i] : 1;
    const int64_t n = p_.a->n;
    if (p_.loss == Loss::logistic) {
        const double e = std::exp(-std::abs(z_[size_t(i)]));
        u[i] = weight * ((z_[size_t(i)] < 0 ? e : 1) / (1 + e) - p_.b[i]);
        return;
    }
    double largest = z_[size_t(i)], sum = 0;
    for (int64_t k = 1; k < p_.classes; ++k) largest = std::max(largest, z_[size_t(k * n + i)]);
    for (int64_t k = 0; k < p_.classes; ++k) sum += u[k * n + i] = std::exp(z_[size_t(k * n + i)] - largest);
    for (int64_t k = 0; k < p_.classes; ++k) u[k * n + i] = weight * (u[k * n + i] / sum - (int64_t(p_.b[i]) == k));
}

// The loss of row i, where z holds its products with x, one for each class
double Solver::loss_of_row(int64_t i, const double* z, int64_t stride) const {
    const double weight = p_.weight ? p_.weight[i] : 1;
    if (p_.loss == Loss::logistic)
        return weight * (std::log1p(std::exp(-std::abs(*z))) + std::max(*z, 0.0) - p_.b[i] * *z);
    double largest = z[0], sum = 0;
    for (int64_t k = 1; k < p_.classes; ++k) largest = std::max(largest, z[k * stride]);
    for (int64_t k = 0; k < p_.classes; ++k) sum += std::exp(z[k * stride] - largest);
    return weight * (std::log(sum) + largest - z[int64_t(p_.b[i]) * stride]);
}

double Solver::objective() const {
    const int64_t n = p_.a->n;
    double sum = 0;
    if (p_.loss == Loss::quadratic)
        for (int64_t c = 0; c < n; ++c) sum += x_[c] * (u_[size_t(c)] - p_.b[c]) / 2;
    else if (p_.loss == Loss::squares)
        for (double r : u_) sum += r * r / 2;
    else
        for (int64_t i = 0; i < n; ++i) sum += loss_of_row(i, z_.data() + i, n);
    for (int64_t c = 0; c < p_.coordinates(); ++c) sum += p_.s.l1[c] * std::abs(x_[c]) + p_.s.l2[c] * x_[c] * x_[c] / 2;
    return sum;
}

void Solver::gradient(double* g, bool fresh) {
    if (p_.loss == Loss::quadratic) {
        std::copy(u_.begin(), u_.end(), g);
    } else if (maintains_ && !fresh) {
        std::copy(g_.begin(), g_.end(), g);
    } else {
        if (!is_known_) {
            known_.assign(size_t(p_.coordinates()), 0);
            for (int64_t k = 0; k < p_.classes; ++k)
                p_.a->products(u_.data() + k * p_.a->n, known_.data() + k, p_.classes);
        }
        is_known_ = true;
        std::copy(known_.begin(), known_.end(), g);
    }
}

double Solver::slope(int64_t c, double g) const {
    const double x = x_[c], l1 = p_.s.l1[c];
    g += p_.s.l2[c] * x;
    double low = x > 0 ? g + l1 : g - l1, high = x < 0 ? g - l1 : g + l1;
    if (x <= p_.s.lower[c]) low = -HUGE_VAL;
    if (x >= p_.s.upper[c]) high = HUGE_VAL;
    if (low > 0) return low;
    if (high < 0) return high;
    return std::isnan(g) ? g : 0;
}

// Adds the rows in which column j has entries to the touched rows.
void Solver::touch(int32_t j) {
    const Matrix& a = *p_.a;
    if (!a.start) return;
    for (int64_t e = a.start[j]; e < a.start[j + 1]; ++e) {
        const int32_t i = a.row[e];
        if (stamp_[size_t(i)] == now_) continue;
        stamp_[size_t(i)] = now_;
        touched_.push_back(i);
    }
}

// Starts a new set of touched rows: none for a sparse matrix, all for a dense one
void Solver::clear_touched() {
    if (++now_ == INT32_MAX) {
        std::fill(stamp_.begin(), stamp_.end(), 0);
        now_ = 1;
    }
    const Matrix& a = *p_.a;
    if (a.start) {
        touched_.clear();
    } else if (touched_.size() != size_t(a.n)) {
        touched_.resize(size_t(a.n));
        for (int64_t i = 0; i < a.n; ++i) touched_[size_t(i)] = int32_t(i);
    }
}

// x += d, and updates everything that depends on x
void Solver::move(const List& block, const Vector& d) {
    is_known_ = false;
    const auto is_active = [&](int32_t c) {
        return (x_[c] == 0 && p_.s.l1[c] > 0) || x_[c] <= p_.s.lower[c] || x_[c] >= p_.s.upper[c];
    };
    for (size_t k = 0; k < block.size(); ++k) {
        const int32_t c = block[k];
        if (d[k] == 0) continue;
        const bool before = is_active(c);
        x_[c] = std::min(std::max(x_[c] + d[k], p_.s.lower[c]), p_.s.upper[c]);
        if (std::abs(x_[c]) <= 0x1p-52 * std::abs(d[k])) x_[c] = 0;
        if (is_active(c) != before) last_change_ = steps_;
    }
    if (maintains_ || p_.loss == Loss::logistic || p_.loss == Loss::softmax)
        move_losses(block, d);
    else
        for (size_t k = 0; k < block.size(); ++k)
            if (d[k] != 0) p_.a->add(block[k], d[k], u_.data());
}

// Only the losses of touched rows change, and with them the derivatives and the gradient.
void Solver::move_losses(const List& block, const Vector& d) {
    const Matrix& a = *p_.a;
    const bool is_linear = p_.loss == Loss::squares;
    clear_touched();
    for (size_t k = 0; k < block.size(); ++k) {
        if (d[k] == 0) continue;
        const int64_t plane = (block[k] % p_.classes) * a.n;
        touch(int32_t(block[k] / p_.classes));
        a.add(block[k] / p_.classes, d[k], is_linear ? delta_.data() : z_.data() + plane);
    }
    renew_derivatives();
    for (int64_t k = 0; k < p_.classes; ++k) {
        double* delta = delta_.data() + k * a.n;
        if (maintains_ && a.start)
            for (int32_t i : touched_) a.add_row(i, delta[i], g_.data() + k, p_.classes);
        else if (maintains_)
            a.products(delta, g_.data() + k, p_.classes);
        for (int32_t i : touched_) delta[i] = 0;
    }
}

// Recomputes the derivatives of the touched rows from their current products with x; delta receives the change.
void Solver::renew_derivatives() {
    const int64_t n = p_.a->n;
    if (p_.loss == Loss::logistic && !p_.a->start) {
        kernels().logistic(n, z_.data(), p_.b, p_.weight, delta_.data());
        for (int64_t i = 0; i < n; ++i) {
            const double before = u_[size_t(i)];
            u_[size_t(i)] = delta_[size_t(i)];
            delta_[size_t(i)] -= before;
        }
        return;
    }
    for (int32_t i : touched_) {
        if (p_.loss == Loss::squares) {
            u_[size_t(i)] += delta_[size_t(i)];
            continue;
        }
        for (int64_t k = 0; k < p_.classes; ++k) delta_[size_t(k * n + i)] = -u_[size_t(k * n + i)];
        refresh_row(i, u_.data());
        for (int64_t k = 0; k < p_.classes; ++k) delta_[size_t(k * n + i)] += u_[size_t(k * n + i)];
    }
}

int64_t Solver::run(const int32_t* sequence, int64_t count, const Team& team) {
    const bool is_single = blocks_.count == p_.coordinates() && update_ <= Update::matrix && !maintains_ &&
                           rule_ == Rule::sequence && (p_.loss == Loss::squares || p_.loss == Loss::quadratic);
    const int64_t work =
        std::max<int64_t>(p_.a->start ? p_.a->start[p_.a->m] / std::max<int64_t>(p_.a->m, 1) : p_.a->n, 1);
    List block;
    team_ = &team;
    for (int64_t done = 0; done < count;) {
        if (has_to_stop(team, work)) return done;
        if (is_single) {
            const int64_t some = std::min<int64_t>(count - done, std::max<int64_t>((1 << 20) / work, 1));
            SweepState sweep{p_.s, x_, u_.data(), sequence + done, some, p_.loss == Loss::quadratic, 0};
            is_known_ = false;
            p_.a->sweep(sweep);
            steps_ += some;
            done += some;
            if (sweep.status_changes) last_change_ = steps_;
            if (has_to_stop(team, some * work)) return done;
            continue;
        }
        const int64_t id = !blocks_.count ? -1 : (rule_ == Rule::sequence ? sequence[done] : choose_fixed());
        if (id < 0)
            choose_variable(block);
        else
            block.assign(blocks_.member + blocks_.start[id], blocks_.member + blocks_.start[id + 1]);
        ++steps_;
        ++done;
        update_block(block, id);
        if (has_to_stop(team, int64_t(block.size()) * work + (maintains_ ? p_.coordinates() : 0))) return done;
    }
    return count;
}

} // namespace fastiter::bcd
