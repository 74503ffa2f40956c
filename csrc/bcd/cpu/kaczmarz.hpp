// Randomized Kaczmarz steps on dense rows: the change of x by one row and its product with the next one in one pass.
#pragma once
#include "bcd/cpu/columns.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {

// x += d row if `moves`; returns next . x. Prefetches `later`, the row after the next one.
template <class T, bool moves>
FASTITER_INLINE double move_and_dot(const T* row, double d, double* x, const T* next, const T* later, int64_t n) {
    constexpr int W = lanes<double>, kLine = 64 / int(sizeof(T));
    const vec<double> by = broadcast(d);
    const auto product = [&](int64_t i, vec<double> sum) {
        vec<double> v = load(x + i);
        if constexpr (moves) v = fma(wide(row + i), by, v), store(x + i, v);
        return fma(wide(next + i), v, sum);
    };
    vec<double> s0{}, s1{}, s2{}, s3{};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        for (int k = 0; k < 4 * W; k += kLine) __builtin_prefetch(later + i + k);
        s0 = product(i, s0), s1 = product(i + W, s1), s2 = product(i + 2 * W, s2), s3 = product(i + 3 * W, s3);
    }
    for (; i + W <= n; i += W) s0 = product(i, s0);
    double sum = sum_of((s0 + s1) + (s2 + s3));
    for (; i < n; ++i) {
        if constexpr (moves) x[i] += d * double(row[i]);
        sum += double(next[i]) * x[i];
    }
    return sum;
}

template <class T> void kaczmarz(const Kaczmarz<T>& given) {
    const Columns<T>& a = given.rows;
    const KaczmarzState& p = given.to;
    if (a.start) {
        for (int64_t k = 0; k < p.count; ++k) {
            const int32_t i = p.order[k];
            column_add(a, i, (p.b[i] - column_dot(a, i, p.x)) * p.inverse[i], p.x);
        }
        return;
    }
    const auto row = [&](int64_t k) { return a.value + p.order[k < p.count ? k : p.count - 1] * a.n; };
    if (p.count <= 0) return;
    double product = move_and_dot<T, false>(row(0), 0, p.x, row(0), row(1), a.n);
    for (int64_t k = 0; k < p.count; ++k) {
        const int32_t i = p.order[k];
        product = move_and_dot<T, true>(row(k), (p.b[i] - product) * p.inverse[i], p.x, row(k + 1), row(k + 2), a.n);
    }
}

} // namespace fastiter::bcd::FASTITER_LEVEL
