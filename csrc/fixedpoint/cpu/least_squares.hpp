// Small systems of linear equations, in double: the coefficients of a combination of differences.
#pragma once
#include "fixedpoint/cpu/kernels.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

struct Small {
    int64_t size = 0;
    double a[kMemory][kMemory]; // scaled: the diagonal is 1
    double b[kMemory], scale[kMemory];
};

// Scales a and b so that the diagonal is 1; a column without a positive diagonal is dropped: scale 0.
inline void equilibrate(Small& s, bool symmetric) {
    for (int64_t i = 0; i < s.size; ++i) {
        const double d = s.a[i][i] < 0 && !symmetric ? -s.a[i][i] : s.a[i][i];
        const double inverse = 1 / __builtin_sqrt(d);
        s.scale[i] = d > 0 && inverse < __builtin_inf() ? inverse : 0;
    }
    for (int64_t i = 0; i < s.size; ++i) {
        for (int64_t j = 0; j < s.size; ++j) s.a[i][j] *= s.scale[i] * s.scale[j];
        s.b[i] *= s.scale[i];
    }
}

// Solves (a + ridge I) c = b by Cholesky's method, in place; a column whose pivot is below `least` gets c = 0.
inline void solve_positive(Small& s, double ridge, double least) {
    double pivot[kMemory];
    for (int64_t j = 0; j < s.size; ++j) {
        double d = s.a[j][j] + ridge;
        for (int64_t k = 0; k < j; ++k) d -= s.a[j][k] * s.a[j][k] * pivot[k];
        const bool keeps = s.scale[j] > 0 && d > least;
        pivot[j] = keeps ? d : 0;
        const double inverse = keeps ? 1 / d : 0;
        for (int64_t i = j + 1; i < s.size; ++i) {
            double sum = s.a[i][j];
            for (int64_t k = 0; k < j; ++k) sum -= s.a[i][k] * s.a[j][k] * pivot[k];
            s.a[i][j] = sum * inverse;
        }
    }
    for (int64_t i = 0; i < s.size; ++i)
        for (int64_t k = 0; k < i; ++k) s.b[i] -= s.a[i][k] * s.b[k];
    for (int64_t i = 0; i < s.size; ++i) s.b[i] = pivot[i] > 0 ? s.b[i] / pivot[i] : 0;
    for (int64_t i = s.size - 1; i >= 0; --i) {
        if (!(pivot[i] > 0)) continue;
        for (int64_t k = i + 1; k < s.size; ++k) s.b[i] -= s.a[k][i] * s.b[k];
    }
}

// Solves (a + ridge I) c = b by elimination with exchanges of rows, in place; a pivot below `least` gives c = 0.
inline void solve_general(Small& s, double ridge, double least) {
    const int64_t n = s.size;
    for (int64_t i = 0; i < n; ++i) s.a[i][i] += s.a[i][i] < 0 ? -ridge : ridge;
    for (int64_t j = 0; j < n; ++j) {
        int64_t best = j;
        auto size = [&](int64_t i) { return s.a[i][j] < 0 ? -s.a[i][j] : s.a[i][j]; };
        for (int64_t i = j + 1; i < n; ++i) best = size(i) > size(best) ? i : best;
        if (!(size(best) > least)) {
            for (int64_t i = 0; i < n; ++i) s.a[i][j] = i == j ? 1 : 0;
            for (int64_t k = j + 1; k < n; ++k) s.a[j][k] = 0;
            s.b[j] = 0;
            continue;
        }
        for (int64_t k = 0; k < n && best != j; ++k) {
            const double t = s.a[j][k];
            s.a[j][k] = s.a[best][k], s.a[best][k] = t;
        }
        const double t = s.b[j];
        s.b[j] = s.b[best], s.b[best] = t;
        for (int64_t i = j + 1; i < n; ++i) {
            const double factor = s.a[i][j] / s.a[j][j];
            for (int64_t k = j + 1; k < n; ++k) s.a[i][k] -= factor * s.a[j][k];
            s.b[i] -= factor * s.b[j];
        }
    }
    for (int64_t i = n - 1; i >= 0; --i) {
        for (int64_t k = i + 1; k < n; ++k) s.b[i] -= s.a[i][k] * s.b[k];
        s.b[i] /= s.a[i][i];
    }
}

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
