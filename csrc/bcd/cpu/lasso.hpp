// Sweeps of the lasso, products of columns with each other, and the Cholesky factor of a matrix of such products.
#pragma once
#include "bcd/cpu/columns.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {
namespace {

// v += d a_j for the k-th column j of the order; returns the product of the next one with v, for dense columns in the
// same pass.
template <class T> FASTITER_INLINE double move_on(const Columns<T>& a, const LassoState& p, int64_t k, double d) {
    const auto column = [&](int64_t i) { return a.value + p.order[min_of(i, p.count - 1)] * a.n; };
    if (a.start || k + 1 == p.count) {
        if (d != 0) column_add(a, p.order[k], d, p.v);
        return k + 1 < p.count ? column_dot(a, p.order[k + 1], p.v) : 0;
    }
    return d != 0 ? move_and_dot<T, true>(column(k), d, p.v, column(k + 1), column(k + 2), a.n)
                  : move_and_dot<T, false>(column(k), d, p.v, column(k + 1), column(k + 2), a.n);
}

template <bool IS_CENTRED, class T> FASTITER_INLINE void lasso_columns(const Columns<T>& a, LassoState& p) {
    double largest = 0, sum = p.sum;
    double product = p.count > 0 ? column_dot(a, p.order[0], p.v) : 0;
    int64_t changes = 0;
    for (int64_t k = 0; k < p.count; ++k) {
        const int64_t j = p.order[k];
        const double inverse = p.inverse[j], before = p.x[j];
        double g = product + p.l2 * before;
        if constexpr (IS_CENTRED) g -= p.mean[j] * sum;
        const double now =
            inverse > 0 ? nearest(before - g * inverse, p.l1 * inverse, p.lower, __builtin_inf()) : before;
        const double d = now - before;
        product = move_on(a, p, k, d);
        if (d == 0) continue;
        p.x[j] = now;
        if constexpr (IS_CENTRED) sum += d * p.mean[j] * p.total;
        changes += (before == 0) != (now == 0);
        const double moved = p.curvature[j] * __builtin_fabs(d);
        largest = moved > largest || moved != moved ? moved : largest;
    }
    p.sum = sum;
    p.largest = largest;
    p.status_changes = changes;
}

template <class T>
void products_of(const Columns<T>& a, const int32_t* columns, int64_t count, const double* u, double* g) {
    for (int64_t k = 0; k < count; ++k) g[k] = column_dot(a, columns[k], u);
}

template <class T> void lasso_sweep(const LassoSweep<T>& arguments) {
    if (arguments.to.mean)
        lasso_columns<true>(arguments.a, arguments.to);
    else
        lasso_columns<false>(arguments.a, arguments.to);
}

template <class T>
double centred_squares(const Columns<T>& a, int64_t j, double mean, const double* ones, double total) {
    double sum = 0, rest = total;
    const int64_t begin = a.start ? a.start[j] : j * a.n, end = a.start ? a.start[j + 1] : begin + a.n;
    for (int64_t e = begin; e < end; ++e) {
        const double one = ones[a.start ? a.row[e] : e - begin], d = double(a.value[e]) - mean * one;
        sum += d * d;
        rest -= one * one;
    }
    return sum + mean * mean * (rest > 0 ? rest : 0);
}

constexpr int kTile = 4;

// sums[r kTile + c] = a[r] . b[c]
template <class T> FASTITER_INLINE void tile(const T* const* a, const T* const* b, int64_t n, double* sums) {
    constexpr int W = lanes<double>;
    vec<double> s[kTile][kTile] = {};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vec<double> right[kTile];
        for (int c = 0; c < kTile; ++c) right[c] = wide(b[c] + i);
        for (int r = 0; r < kTile; ++r) {
            const vec<double> left = wide(a[r] + i);
            for (int c = 0; c < kTile; ++c) s[r][c] = fma(left, right[c], s[r][c]);
        }
    }
    for (int r = 0; r < kTile; ++r)
        for (int c = 0; c < kTile; ++c) {
            double sum = sum_of(s[r][c]);
            for (int64_t k = i; k < n; ++k) sum += double(a[r][k]) * double(b[c][k]);
            sums[r * kTile + c] = sum;
        }
}

// Dense columns in pieces of rows, of which a tile's columns fit the first-level cache
template <class T> void dense_gram(const Gram<T>& arguments) {
    const GramState& p = arguments.to;
    constexpr int64_t kRows = 512;
    const T *a[kTile], *b[kTile];
    double sums[kTile * kTile];
    for (int64_t i = 0; i < p.rows * p.columns; ++i) p.products[i] = 0;
    for (int64_t begin = 0; begin < arguments.a.n; begin += kRows) {
        const int64_t n = min_of(kRows, arguments.a.n - begin);
        for (int64_t c0 = 0; c0 < p.columns; c0 += kTile) {
            for (int64_t c = 0; c < kTile; ++c)
                b[c] = arguments.a.value + p.column[min_of(c0 + c, p.columns - 1)] * arguments.a.n + begin;
            for (int64_t r0 = 0; r0 < p.rows; r0 += kTile) {
                for (int64_t r = 0; r < kTile; ++r)
                    a[r] = arguments.a.value + p.row[min_of(r0 + r, p.rows - 1)] * arguments.a.n + begin;
                tile(a, b, n, sums);
                for (int64_t r = r0; r < min_of(r0 + kTile, p.rows); ++r)
                    for (int64_t c = c0; c < min_of(c0 + kTile, p.columns); ++c)
                        p.products[r * p.columns + c] += sums[(r - r0) * kTile + c - c0];
            }
        }
    }
}

template <class T> void gram(const Gram<T>& arguments) {
    const Columns<T>& a = arguments.a;
    const GramState& p = arguments.to;
    if (!a.start) return dense_gram(arguments);
    for (int64_t r = 0; r < p.rows; ++r) {
        const int64_t begin = a.start[p.row[r]], end = a.start[p.row[r] + 1];
        for (int64_t e = begin; e < end; ++e) p.work[a.row[e]] = double(a.value[e]);
        for (int64_t c = 0; c < p.columns; ++c) p.products[r * p.columns + c] = column_dot(a, p.column[c], p.work);
        for (int64_t e = begin; e < end; ++e) p.work[a.row[e]] = 0;
    }
}

// Row by row in tiles: an entry is that of h minus the product of the rows' earlier entries, divided by the diagonal.
bool cholesky(double* h, int64_t n) {
    const double *a[kTile], *b[kTile];
    double sums[kTile * kTile];
    for (int64_t i0 = 0; i0 < n; i0 += kTile) {
        for (int64_t r = 0; r < kTile; ++r) a[r] = h + min_of(i0 + r, n - 1) * n;
        for (int64_t j0 = 0; j0 <= i0; j0 += kTile) {
            for (int64_t c = 0; c < kTile; ++c) b[c] = h + min_of(j0 + c, n - 1) * n;
            tile(a, b, j0, sums);
            for (int64_t i = i0; i < min_of(i0 + kTile, n); ++i)
                for (int64_t j = j0; j < min_of(j0 + kTile, i + 1); ++j) {
                    double s = h[i * n + j] - sums[(i - i0) * kTile + j - j0];
                    for (int64_t k = j0; k < j; ++k) s -= h[i * n + k] * h[j * n + k];
                    if (i == j && !(s > 0x1p-40 * h[i * n + i])) return false;
                    h[i * n + j] = i == j ? __builtin_sqrt(s) : s / h[j * n + j];
                }
        }
    }
    return true;
}

void solve_cholesky(const double* factor, int64_t n, double* x) {
    for (int64_t i = 0; i < n; ++i) x[i] = (x[i] - dense_dot(factor + i * n, x, i)) / factor[i * n + i];
    for (int64_t i = n; i-- > 0;) {
        x[i] /= factor[i * n + i];
        dense_add(factor + i * n, -x[i], x, i);
    }
}

} // namespace
} // namespace fastiter::bcd::FASTITER_LEVEL
