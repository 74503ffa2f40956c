#include "relax/schwarz.hpp"
#include "relax/sweeps.hpp"

namespace fastiter::relax {
namespace {

Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
Complex operator*(double a, Complex b) { return {a * b.re, a * b.im}; }

// If x and b have one column (K = 1), a sum stays in a register.
template <int K, class S> struct Sums {
    S own[1];
    S* at;
    int64_t k;
    Sums(S* memory, int64_t width) : at(K ? own : memory), k(K ? K : width) {}
};

// to = b_row - A_row x
template <int K, class A, class V>
void residual_of(const Subdomains<A, V>& m, int64_t row, const V* x, const V* b, int64_t width, sum_of<V>* to) {
    Sums<K, sum_of<V>> sum(to, width);
    const int64_t k = sum.k, last = m.start[row + 1];
    for (int64_t c = 0; c < k; ++c) sum.at[c] = wide(b[row * k + c]);
    for (int64_t e = m.start[row]; e < last; ++e)
        for (int64_t c = 0; c < k; ++c) sum.at[c] = sum.at[c] - wide(m.value[e]) * wide(x[m.column[e] * k + c]);
    if (K) *to = *sum.at;
}

// Subdomains of one row each
template <int K, class A, class V>
void relax_points(const Subdomains<A, V>& m, const V* x, V* y, const V* b, int64_t k, double keep, double omega,
                  bool backward) {
    std::vector<sum_of<V>> residual(static_cast<size_t>(k));
    for (int64_t t = 0; t < m.count; ++t) {
        const int64_t s = backward ? m.count - 1 - t : t, row = m.row[s];
        residual_of<K>(m, row, x, b, k, residual.data());
        for (int64_t c = 0; c < k; ++c) {
            const int64_t at = row * k + c;
            y[at] = V(keep * wide(x[at]) + omega * (m.inverse[s] * residual[size_t(c)]));
        }
    }
}

template <int K, class A, class V>
void relax_lists(const Subdomains<A, V>& m, const V* x, V* y, const V* b, int64_t width, double keep, double omega,
                 bool backward) {
    using S = sum_of<V>;
    int64_t largest = 0;
    for (int64_t s = 0; s < m.count; ++s) largest = std::max(largest, m.first[s + 1] - m.first[s]);
    std::vector<S> residuals(size_t(largest * width)), steps(static_cast<size_t>(width));
    S* residual = residuals.data();
    for (int64_t t = 0; t < m.count; ++t) {
        const int64_t s = backward ? m.count - 1 - t : t, rows = m.first[s + 1] - m.first[s];
        const int32_t* row = m.row + m.first[s];
        for (int64_t i = 0; i < rows; ++i) residual_of<K>(m, row[i], x, b, width, residual + i * width);
        const S* inverse = m.inverse + m.first_inverse[s];
        for (int64_t i = 0; i < rows; ++i, inverse += rows) {
            Sums<K, S> step(steps.data(), width);
            const int64_t k = step.k;
            for (int64_t c = 0; c < k; ++c) step.at[c] = S{};
            for (int64_t j = 0; j < rows; ++j)
                for (int64_t c = 0; c < k; ++c) step.at[c] = step.at[c] + inverse[j] * residual[j * k + c];
            for (int64_t c = 0; c < k; ++c) {
                const int64_t at = row[i] * k + c;
                y[at] = V(keep * wide(x[at]) + omega * step.at[c]);
            }
        }
    }
}

} // namespace

template <class A, class V>
void sweep_schwarz(const Subdomains<A, V>& m, const V* x, V* y, const V* b, int64_t k, double keep, double omega,
                   bool backward) {
    auto call = [&](auto relax) { relax(m, x, y, b, k, keep, omega, backward); };
    if (k == 1)
        call(m.first ? relax_lists<1, A, V> : relax_points<1, A, V>);
    else
        call(m.first ? relax_lists<0, A, V> : relax_points<0, A, V>);
}

#define FASTITER_INSTANTIATE(A, V) \
    template void sweep_schwarz<A, V>(const Subdomains<A, V>&, const V*, V*, const V*, int64_t, double, double, bool);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::relax
