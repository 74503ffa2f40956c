// Small systems of linear equations in double, for the coefficients of a combination of differences.
#pragma once
#include "core/cpu/simd.hpp"
#include "fixedpoint/cpu/kernels.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

struct Small {
    int64_t size = 0;
    double a[kMemory][kMemory]; // scaled to a unit diagonal
    double b[kMemory], scale[kMemory];
};

// Scales a and b to a unit diagonal; a column whose diagonal is 0 is dropped (scale 0).
inline void equilibrate(Small& s) {
    for (int64_t i = 0; i < s.size; ++i) {
        const double d = s.a[i][i] < 0 ? -s.a[i][i] : s.a[i][i];
        const double inverse = 1 / __builtin_sqrt(d);
        s.scale[i] = d > 0 && inverse < __builtin_inf() ? inverse : 0;
    }
    for (int64_t i = 0; i < s.size; ++i) {
        for (int64_t j = 0; j < s.size; ++j) s.a[i][j] *= s.scale[i] * s.scale[j];
        s.b[i] *= s.scale[i];
    }
}

// One system per lane, as many as a vector has doubles: element (i, j), i >= j, is a[i * size + j].
struct Together {
    int64_t size = 0;
    vec<double> a[kMemory * kMemory];
    vec<double> b[kMemory], scale[kMemory], pivot[kMemory];
};

FASTITER_INLINE vec<double> root_of(vec<double> v) {
#if defined(__AVX512F__)
    return (vec<double>)_mm512_sqrt_pd((__m512d)v);
#elif defined(__AVX2__)
    return (vec<double>)_mm256_sqrt_pd((__m256d)v);
#elif defined(__aarch64__)
    return (vec<double>)vsqrtq_f64((float64x2_t)v);
#else
    for (int i = 0; i < lanes<double>; ++i) v[i] = __builtin_sqrt(v[i]);
    return v;
#endif
}

// Scales rows and columns to a unit diagonal and solves (a + ridge I) c = b by the LDL^T factorisation, in place. A
// column whose diagonal is not positive, or whose pivot is at most `smallest`, gets c = 0.
inline void solve_positive(Together& s, double ridge, double smallest) {
    const int64_t n = s.size;
    const vec<double> none{}, one = broadcast(1.0);
    for (int64_t i = 0; i < n; ++i) {
        const vec<double> d = s.a[i * n + i], inverse = one / root_of(d);
        s.scale[i] = select<double>((d > none) & (inverse < broadcast(__builtin_inf())), inverse, none);
        for (int64_t j = 0; j <= i; ++j) s.a[i * n + j] *= s.scale[i] * s.scale[j];
        s.b[i] *= s.scale[i];
    }
    for (int64_t j = 0; j < n; ++j) {
        vec<double> d = s.a[j * n + j] + ridge, scaled[kMemory];
        for (int64_t k = 0; k < j; ++k) {
            scaled[k] = s.a[j * n + k] * s.pivot[k];
            d -= s.a[j * n + k] * scaled[k];
        }
        const mask<double> keeps = (s.scale[j] > none) & (d > broadcast(smallest));
        const vec<double> inverse = select<double>(keeps, one / d, none);
        s.pivot[j] = select<double>(keeps, d, none);
        for (int64_t i = j + 1; i < n; ++i) {
            vec<double> sum = s.a[i * n + j];
            for (int64_t k = 0; k < j; ++k) sum -= s.a[i * n + k] * scaled[k];
            s.a[i * n + j] = sum * inverse;
        }
        vec<double> right = s.b[j]; // row j of L is complete: forward substitution
        for (int64_t k = 0; k < j; ++k) right -= s.a[j * n + k] * s.b[k];
        s.b[j] = right;
        s.a[j * n + j] = inverse;
    }
    for (int64_t i = n - 1; i >= 0; --i) {
        vec<double> c = s.b[i] * s.a[i * n + i];
        const mask<double> keeps = s.pivot[i] > none;
        for (int64_t k = i + 1; k < n; ++k) c -= s.a[k * n + i] * s.b[k];
        s.b[i] = select<double>(keeps, c, none);
    }
    for (int64_t i = 0; i < n; ++i) s.b[i] *= s.scale[i];
}

// Solves (a + ridge I) c = b by Gaussian elimination with row interchanges, in place; c = 0 where the pivot is below
// `smallest`.
inline void solve_general(Small& s, double ridge, double smallest) {
    const int64_t n = s.size;
    for (int64_t i = 0; i < n; ++i) s.a[i][i] += s.a[i][i] < 0 ? -ridge : ridge;
    for (int64_t j = 0; j < n; ++j) {
        int64_t best = j;
        auto size = [&](int64_t i) { return s.a[i][j] < 0 ? -s.a[i][j] : s.a[i][j]; };
        for (int64_t i = j + 1; i < n; ++i) best = size(i) > size(best) ? i : best;
        if (!(size(best) > smallest)) {
            for (int64_t i = 0; i < n; ++i) s.a[i][j] = i == j ? 1 : 0;
            for (int64_t k = j + 1; k < n; ++k) s.a[j][k] = 0;
            s.b[j] = 0;
            continue;
        }
        for (int64_t k = 0; k < n && best != j; ++k) {
            const double t = s.a[j][k];
            s.a[j][k] = s.a[best][k];
            s.a[best][k] = t;
        }
        const double t = s.b[j];
        s.b[j] = s.b[best];
        s.b[best] = t;
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
