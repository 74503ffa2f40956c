// Products of A and of its transpose with a matrix of one column for each class.
#pragma once
#include "bcd/cpu/columns.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {

// Rows of a dense A at a time, so that four columns of A and four classes stay in the first-level cache
constexpr int64_t kBlockRows = 512;
// Columns of A at a time, with one class and with several
constexpr int kColumnsOfOne = 8, kColumnsTogether = kVectorBytes == 64 ? 4 : 2;

template <class T> FASTITER_INLINE vec<double> wide_up_to(const T* p, int64_t count) {
    if (count >= lanes<double>) return wide(p);
    vec<double> v{};
    for (int i = 0; i < count; ++i) v[i] = double(p[i]);
    return v;
}

// z[c] += the sum over G columns of a times in[g][c], for C classes
template <class T, int G, int C>
FASTITER_INLINE void add_columns(const Product<T>& p, const T* a, int64_t rows, const double* in, double* z) {
    vec<double> by[G][C];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) by[g][c] = broadcast(in[g * p.classes + c]);
    for (int64_t i = 0; i < rows; i += lanes<double>) {
        vec<double> v[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) v[c] = load_up_to(z + c * p.n + i, rows - i);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            const vec<double> x = wide_up_to(a + g * p.n + i, rows - i);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) v[c] = fma(x, by[g][c], v[c]);
        }
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) store_up_to(z + c * p.n + i, v[c], rows - i);
    }
}

// out[g][c] += a_g . u[c], for G columns and C classes
template <class T, int G, int C>
FASTITER_INLINE void dot_columns(const Product<T>& p, const T* a, int64_t rows, const double* u, double* out) {
    vec<double> sums[G][C] = {};
    for (int64_t i = 0; i < rows; i += lanes<double>) {
        vec<double> v[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) v[c] = load_up_to(u + c * p.n + i, rows - i);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            const vec<double> x = wide_up_to(a + g * p.n + i, rows - i);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) sums[g][c] = fma(x, v[c], sums[g][c]);
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) out[g * p.classes + c] += sum_of(sums[g][c]);
}

// Calls each.operator()<G>(j) for the columns [first, last), G at a time and then one at a time.
template <int G, class Each> FASTITER_INLINE void by_columns(int64_t first, int64_t last, Each each) {
    int64_t j = first;
    for (; j + G <= last; j += G) each.template operator()<G>(j);
    for (; j < last; ++j) each.template operator()<1>(j);
}

// Calls each.operator()<C>(c) for all classes, four at a time; the last ones together.
template <class Each> FASTITER_INLINE void by_classes(int64_t classes, Each each) {
    int64_t c = 0;
    for (; c + 4 <= classes; c += 4) each.template operator()<4>(c);
    switch (classes - c) {
    case 3:
        return each.template operator()<3>(c);
    case 2:
        return each.template operator()<2>(c);
    case 1:
        return each.template operator()<1>(c);
    default:
        return;
    }
}

template <class T> FASTITER_INLINE void dense_product(const Product<T>& p, Team team) {
    const int64_t blocks = ceil_div(p.n, kBlockRows);
    for (int64_t b = team.id; b < blocks; b += team.size) {
        const int64_t i = b * kBlockRows, rows = min_of(kBlockRows, p.n - i);
        if (has_to_stop(team, rows * p.m * p.classes)) return;
        by_classes(p.classes, [&]<int C>(int64_t c) {
            double* z = p.out + c * p.n + i;
            for (int k = 0; k < C; ++k)
                for (int64_t r = 0; r < rows; ++r) z[k * p.n + r] = 0;
            by_columns<C == 1 ? kColumnsOfOne : kColumnsTogether>(0, p.m, [&]<int G>(int64_t j) {
                add_columns<T, G, C>(p, p.value + j * p.n + i, rows, p.in + j * p.classes + c, z);
            });
        });
    }
}

template <class T> FASTITER_INLINE void dense_transposed(const Product<T>& p, Team team) {
    constexpr int64_t kTogether = 8; // columns of one thread begin at a multiple: the bits do not depend on threads
    const int64_t groups = ceil_div(p.m, kTogether);
    const int64_t first = groups * team.id / team.size * kTogether,
                  last = min_of(p.m, groups * (team.id + 1) / team.size * kTogether);
    for (int64_t k = first * p.classes; k < last * p.classes; ++k) p.out[k] = 0;
    for (int64_t i = 0; i < p.n; i += kBlockRows) {
        const int64_t rows = min_of(kBlockRows, p.n - i);
        if (has_to_stop(team, rows * (last - first) * p.classes)) return;
        by_classes(p.classes, [&]<int C>(int64_t c) {
            by_columns<C == 1 ? kColumnsOfOne : kColumnsTogether>(first, last, [&]<int G>(int64_t j) {
                dot_columns<T, G, C>(p, p.value + j * p.n + i, rows, p.in + c * p.n + i, p.out + j * p.classes + c);
            });
        });
    }
}

// Lines of a compressed matrix: out[line] = the sum of value times in[index], C numbers each
template <class T, int C>
FASTITER_INLINE void gather(const Product<T>& p, int64_t lines, int64_t c, const double* in, double* out, Team team) {
    const int64_t first = lines * team.id / team.size, last = lines * (team.id + 1) / team.size;
    for (int64_t l = first; l < last; ++l) {
        double even[C] = {}, odd[C] = {};
        int64_t e = p.start[l];
        const int64_t end = p.start[l + 1];
        for (; e + 2 <= end; e += 2) {
            const double a = double(p.value[e]), b = double(p.value[e + 1]);
            const double *x = in + p.index[e] * p.classes + c, *y = in + p.index[e + 1] * p.classes + c;
#pragma GCC unroll 4
            for (int k = 0; k < C; ++k) {
                even[k] += a * x[k];
                odd[k] += b * y[k];
            }
        }
        if (e < end)
#pragma GCC unroll 4
            for (int k = 0; k < C; ++k) even[k] += double(p.value[e]) * in[p.index[e] * p.classes + c + k];
#pragma GCC unroll 4
        for (int k = 0; k < C; ++k) out[l * p.classes + c + k] = even[k] + odd[k];
        if ((l & 1023) == 0 && has_to_stop(team, 1024)) return;
    }
}

// out[index] += value times in[line], C numbers each; on one thread, as lines share indices
template <class T, int C>
FASTITER_INLINE void scatter(const Product<T>& p, int64_t lines, int64_t c, const double* in, double* out, Team team) {
    if (team.id) return;
    for (int64_t l = 0; l < lines; ++l) {
        double x[C];
#pragma GCC unroll 4
        for (int k = 0; k < C; ++k) x[k] = in[l * p.classes + c + k];
        for (int64_t e = p.start[l]; e < p.start[l + 1]; ++e) {
            double* to = out + p.index[e] * p.classes + c;
            const double a = double(p.value[e]);
#pragma GCC unroll 4
            for (int k = 0; k < C; ++k) to[k] += a * x[k];
        }
        if ((l & 1023) == 0 && has_to_stop(team, 1024)) return;
    }
}

template <class T>
FASTITER_INLINE void by_lines(const Product<T>& p, bool gathers, const double* in, double* out, int64_t size,
                              Team team) {
    const int64_t lines = p.by_rows ? p.n : p.m;
    if (!gathers && team.id == 0)
        for (int64_t k = 0; k < size * p.classes; ++k) out[k] = 0;
    by_classes(p.classes, [&]<int C>(int64_t c) {
        if (gathers)
            gather<T, C>(p, lines, c, in, out, team);
        else
            scatter<T, C>(p, lines, c, in, out, team);
    });
}

template <class T> void product(const Product<T>& p, Team team) {
    if (!p.start) return dense_product(p, team);
    double* out = p.classes == 1 ? p.out : p.work;
    by_lines(p, p.by_rows, p.in, out, p.n, team);
    if (p.classes == 1) return;
    wait(team.barriers[0], team.size);
    for (int64_t k = team.id; k < p.classes; k += team.size)
        for (int64_t i = 0; i < p.n; ++i) p.out[k * p.n + i] = out[i * p.classes + k];
}

template <class T> void transposed_product(const Product<T>& p, Team team) {
    if (!p.start) return dense_transposed(p, team);
    const double* in = p.in;
    if (p.classes > 1) {
        for (int64_t k = team.id; k < p.classes; k += team.size)
            for (int64_t i = 0; i < p.n; ++i) p.work[i * p.classes + k] = p.in[k * p.n + i];
        wait(team.barriers[0], team.size);
        in = p.work;
    }
    by_lines(p, !p.by_rows, in, p.out, p.m, team);
}

} // namespace fastiter::bcd::FASTITER_LEVEL
