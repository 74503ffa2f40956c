// Products of one column with vectors of doubles.
#pragma once
#include "bcd/cpu/kernels.hpp"
#include "core/cpu/simd.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {

// Elements of A, converted to double when loaded
using half_floats __attribute__((vector_size(kVectorBytes / 2), aligned(4))) = float;
FASTITER_INLINE vec<double> wide(const double* p) { return load(p); }
FASTITER_INLINE vec<double> wide(const float* p) {
    return __builtin_convertvector(*reinterpret_cast<const half_floats*>(p), vec<double>);
}

FASTITER_INLINE double sum_of(vec<double> v) {
    double sum = 0;
    for (int i = 0; i < lanes<double>; ++i) sum += v[i];
    return sum;
}

template <class T> FASTITER_INLINE double dense_dot(const T* a, const double* u, int64_t n) {
    constexpr int W = lanes<double>;
    vec<double> s0{}, s1{}, s2{}, s3{};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        s0 = fma(wide(a + i), load(u + i), s0);
        s1 = fma(wide(a + i + W), load(u + i + W), s1);
        s2 = fma(wide(a + i + 2 * W), load(u + i + 2 * W), s2);
        s3 = fma(wide(a + i + 3 * W), load(u + i + 3 * W), s3);
    }
    for (; i + W <= n; i += W) s0 = fma(wide(a + i), load(u + i), s0);
    double sum = sum_of((s0 + s1) + (s2 + s3));
    for (; i < n; ++i) sum += double(a[i]) * u[i];
    return sum;
}

template <class T> FASTITER_INLINE void dense_add(const T* a, double d, double* z, int64_t n) {
    constexpr int W = lanes<double>;
    const vec<double> by = broadcast(d);
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        store(z + i, fma(wide(a + i), by, load(z + i)));
        store(z + i + W, fma(wide(a + i + W), by, load(z + i + W)));
    }
    for (; i < n; ++i) z[i] += d * double(a[i]);
}

// z += d a if `moves`; returns next . z. Prefetches `later`, the vector after the next one, into the second-level cache:
// z and three vectors of doubles are more than the first level holds from 1000 elements on.
template <class T, bool moves>
FASTITER_INLINE double move_and_dot(const T* a, double d, double* z, const T* next, const T* later, int64_t n) {
    constexpr int W = lanes<double>, kLine = 64 / int(sizeof(T));
    const vec<double> by = broadcast(d);
    const auto product = [&](int64_t i, vec<double> sum) {
        vec<double> v = load(z + i);
        if constexpr (moves) {
            v = fma(wide(a + i), by, v);
            store(z + i, v);
        }
        return fma(wide(next + i), v, sum);
    };
    vec<double> s0{}, s1{}, s2{}, s3{};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        for (int k = 0; k < 4 * W; k += kLine) __builtin_prefetch(later + i + k, 0, 2);
        s0 = product(i, s0);
        s1 = product(i + W, s1);
        s2 = product(i + 2 * W, s2);
        s3 = product(i + 3 * W, s3);
    }
    for (; i + W <= n; i += W) s0 = product(i, s0);
    double sum = sum_of((s0 + s1) + (s2 + s3));
    for (; i < n; ++i) {
        if constexpr (moves) z[i] += d * double(a[i]);
        sum += double(next[i]) * z[i];
    }
    return sum;
}

template <class T> FASTITER_INLINE double column_dot(const Columns<T>& a, int64_t j, const double* u) {
    if (!a.start) return dense_dot(a.value + j * a.n, u, a.n);
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int64_t e = a.start[j];
    const int64_t end = a.start[j + 1];
    for (; e + 4 <= end; e += 4) {
        s0 += double(a.value[e]) * u[a.row[e]];
        s1 += double(a.value[e + 1]) * u[a.row[e + 1]];
        s2 += double(a.value[e + 2]) * u[a.row[e + 2]];
        s3 += double(a.value[e + 3]) * u[a.row[e + 3]];
    }
    for (; e < end; ++e) s0 += double(a.value[e]) * u[a.row[e]];
    return (s0 + s1) + (s2 + s3);
}

template <class T> FASTITER_INLINE void column_add(const Columns<T>& a, int64_t j, double d, double* z) {
    if (!a.start) return dense_add(a.value + j * a.n, d, z, a.n);
    for (int64_t e = a.start[j]; e < a.start[j + 1]; ++e) z[a.row[e]] += d * double(a.value[e]);
}

// z += d W a_j
template <class T>
FASTITER_INLINE void column_add_weighted(const Columns<T>& a, int64_t j, double d, const double* weight, double* z) {
    if (a.start) {
        for (int64_t e = a.start[j]; e < a.start[j + 1]; ++e) {
            const int32_t i = a.row[e];
            z[i] += d * weight[i] * double(a.value[e]);
        }
        return;
    }
    constexpr int W = lanes<double>;
    const T* value = a.value + j * a.n;
    const vec<double> by = broadcast(d);
    int64_t i = 0;
    for (; i + W <= a.n; i += W) store(z + i, fma(wide(value + i), by * load(weight + i), load(z + i)));
    for (; i < a.n; ++i) z[i] += d * weight[i] * double(value[i]);
}

template <class T> FASTITER_INLINE double column_squares(const Columns<T>& a, int64_t j, const double* weight) {
    double sum = 0;
    if (a.start) {
        for (int64_t e = a.start[j]; e < a.start[j + 1]; ++e)
            sum += double(a.value[e]) * double(a.value[e]) * weight[a.row[e]];
        return sum;
    }
    constexpr int W = lanes<double>;
    const T* value = a.value + j * a.n;
    vec<double> s0{}, s1{};
    int64_t i = 0;
    for (; i + 2 * W <= a.n; i += 2 * W) {
        const vec<double> v0 = wide(value + i), v1 = wide(value + i + W);
        s0 = fma(v0 * v0, load(weight + i), s0);
        s1 = fma(v1 * v1, load(weight + i + W), s1);
    }
    sum = sum_of(s0 + s1);
    for (; i < a.n; ++i) sum += double(value[i]) * double(value[i]) * weight[i];
    return sum;
}

// The minimiser of curvature (y - v)^2 / 2 + l1 |y| over lower <= y <= upper; v - v is 0, but NaN for a v of NaN.
FASTITER_INLINE double nearest(double v, double threshold, double lower, double upper) {
    double y = v > threshold ? v - threshold : (v < -threshold ? v + threshold : v - v);
    y = y < lower ? lower : y;
    return y > upper ? upper : y;
}

} // namespace fastiter::bcd::FASTITER_LEVEL
