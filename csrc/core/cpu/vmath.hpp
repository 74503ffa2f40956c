// Vectorised exp, sigmoid, tanh, log(sigmoid) and softplus, correct over the whole range, including denormal results,
// infinities and NaN. docs/rnn/theory.md has the table of their largest errors, tested on every instruction set against a
// higher precision.
#pragma once
#include "core/cpu/simd.hpp"

namespace fastiter::FASTITER_LEVEL {

template <class T> struct ExpConstants;

template <> struct ExpConstants<float> {
    static constexpr float log2e = 1.44269504088896341f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    static constexpr float round = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    static constexpr float lowest = -104.0f, highest = 89.0f; // beyond these, results are 0 and inf
    static constexpr int mantissa = 23;
    // minimax on |r| <= ln(2)/2 of (e^r - 1 - r) / r^2; relative error of e^r 4e-9
    static constexpr float q[] = {0.499999934f, 0.166665204f, 0.0416683908f, 0.00836874513f, 0.00138145399f};
};

template <> struct ExpConstants<double> {
    static constexpr double log2e = 1.4426950408889634074, ln2_hi = 6.93147180369123816490e-01,
                            ln2_lo = 1.90821492927058770002e-10;
    static constexpr double round = 6755399441055744.0; // 1.5 * 2^52
    static constexpr double lowest = -746.0, highest = 710.0;
    static constexpr int mantissa = 52;
    // Taylor; the first term left out is below 5e-18 on |r| <= ln(2)/2
    static constexpr double q[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                   1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                   1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
};

// x = n ln2 + r with |r| <= ln(2)/2
template <class T> struct Reduced {
    vec<T> n; // an integer
    vec<T> r;
};

template <class T> FASTITER_INLINE Reduced<T> reduce(vec<T> x) {
    using C = ExpConstants<T>;
    vec<T> n = fma(x, C::log2e, C::round) - C::round;
    return {n, fma(n, -C::ln2_lo, fma(n, -C::ln2_hi, x))};
}

// 2^n for integers n in the range of normal exponents, given n + C::round, whose low bits are n; any number for NaN, whose
// low bits may be anything
template <class T> FASTITER_INLINE vec<T> power_of_two(vec<T> rounded) {
    return (vec<T>)(((raw_bits<T>)rounded << ExpConstants<T>::mantissa) + (raw_bits<T>)broadcast(T(1)));
}

// e^r for |r| <= ln(2)/2
template <class T> FASTITER_INLINE vec<T> exp_reduced(vec<T> r) {
    using C = ExpConstants<T>;
    constexpr int degree = sizeof(C::q) / sizeof(C::q[0]) - 1;
    vec<T> p = broadcast(C::q[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; --i) p = fma(p, r, broadcast(C::q[i]));
    return fma(fma(p, r, broadcast(T(1))), r, broadcast(T(1)));
}

// y 2^n, rounded once, also for denormal results: with one AVX-512 instruction, elsewhere with two factors of normal
// exponent
template <class T> FASTITER_INLINE vec<T> scale(vec<T> y, vec<T> n) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (vec<T>)_mm512_scalef_ps((__m512)y, (__m512)n);
    else
        return (vec<T>)_mm512_scalef_pd((__m512d)y, (__m512d)n);
#else
    using C = ExpConstants<T>;
    vec<T> half = fma(n, T(0.5), C::round);
    return y * power_of_two<T>(half) * power_of_two<T>(n - (half - C::round) + C::round);
#endif
}

template <class T> FASTITER_INLINE vec<T> exp(vec<T> x) {
    using C = ExpConstants<T>;
    auto [n, r] = reduce<T>(at_most<T>(at_least<T>(x, C::lowest), C::highest));
    return scale<T>(exp_reduced<T>(r), n);
}

// e^x for x <= 0 or NaN: saves one comparison
template <class T> FASTITER_INLINE vec<T> exp_of_nonpositive(vec<T> x) {
    auto [n, r] = reduce<T>(at_least<T>(x, ExpConstants<T>::lowest));
    return scale<T>(exp_reduced<T>(r), n);
}

// x / d for 1 <= d <= 2. In float, an approximate reciprocal and one Newton step (28 bits) cost a third of a division.
template <class T> FASTITER_INLINE vec<T> divide_by_1_to_2(vec<T> x, vec<T> d) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
        vec<T> r = (vec<T>)_mm512_rcp14_ps((__m512)d);
        vec<T> q = x * r;
        return fma(q, fma(-d, r, broadcast(T(1))), q);
    }
#endif
    return x / d;
}

// 1 / (1 + e^-x) for e = e^-|x|, which avoids overflow and keeps the precision of small results
template <class T> FASTITER_INLINE vec<T> sigmoid(vec<T> x, vec<T> e) {
    return divide_by_1_to_2<T>(select<T>(x < T(0), e, broadcast(T(1))), e + T(1));
}

template <class T> FASTITER_INLINE vec<T> sigmoid(vec<T> x) {
    return sigmoid<T>(x, exp_of_nonpositive<T>(minus_magnitude<T>(x)));
}

// x[i] = sigmoid(x[i]) for `Count` vectors, operation by operation, with the bits of sigmoid: one after the other they
// would fill the scheduler, as the latency of one is several times its share of the throughput.
template <class T, int Count> FASTITER_INLINE void sigmoids(vec<T>* x) {
    using C = ExpConstants<T>;
    constexpr int degree = sizeof(C::q) / sizeof(C::q[0]) - 1;
    vec<T> n[Count], r[Count], p[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) r[i] = at_least<T>(minus_magnitude<T>(x[i]), C::lowest);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) n[i] = fma(r[i], C::log2e, C::round) - C::round;
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) r[i] = fma(n[i], -C::ln2_lo, fma(n[i], -C::ln2_hi, r[i]));
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) p[i] = fma(broadcast(C::q[degree]), r[i], broadcast(C::q[degree - 1]));
#pragma GCC unroll 16
    for (int k = degree - 2; k >= 0; --k)
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) p[i] = fma(p[i], r[i], broadcast(C::q[k]));
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k)
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) p[i] = fma(p[i], r[i], broadcast(T(1)));
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) p[i] = scale<T>(p[i], n[i]);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) x[i] = sigmoid<T>(x[i], p[i]);
}

// tanh x = -(e^-2|x| - 1) / (e^-2|x| + 1) with the sign of x; through expm1, so that small x keep their precision. With
// -|x| = n ln2/2 + s, e^-2|x| - 1 = 2^n expm1(2s) + 2^n - 1; one constant for ln2/2 suffices, as n is small where it
// matters.
template <class T> FASTITER_INLINE vec<T> tanh(vec<T> x) {
    using C = ExpConstants<T>;
    constexpr T half_ln2 = T(0.34657359027997265471), half_ln2_lo = sizeof(T) == 4 ? T(0) : T(1.1595234069231498e-17);
    constexpr int degree = sizeof(C::q) / sizeof(C::q[0]) - 1;
    vec<T> y = at_least<T>(minus_magnitude<T>(x), T(-30));
    vec<T> rounded = fma(y, 2 * C::log2e, C::round), n = rounded - C::round;
    vec<T> s = fma(n, -half_ln2, y);
    if constexpr (sizeof(T) == 8) s = fma(n, -half_ln2_lo, s);
    vec<T> p = broadcast(C::q[degree] * T(4 << degree));
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; --i) p = fma(p, s, broadcast(C::q[i] * T(4 << i)));
    vec<T> expm1 = fma(s * s, p, s + s);
    vec<T> two_n = power_of_two<T>(rounded);
    vec<T> em1 = fma(two_n, expm1, two_n - T(1));
    return copy_sign<T>(divide_by_1_to_2<T>(em1, em1 + T(2)), x);
}

// log(1 + e) = 2 atanh(s) for 0 <= e <= 1, with s = e / (2 + e) <= 1/3
template <class T> FASTITER_INLINE vec<T> log1p_up_to_1(vec<T> e) {
    constexpr int terms = sizeof(T) == 4 ? 7 : 16; // terms s^(2k) / (2k + 1)
    vec<T> s = e / (e + T(2));
    vec<T> s2 = s * s;
    vec<T> p = broadcast(T(1) / (2 * terms + 1));
#pragma GCC unroll 16
    for (int k = terms - 1; k > 0; --k) p = fma(p, s2, broadcast(T(1) / (2 * k + 1)));
    return fma(s * s2, p, s) * T(2);
}

// min(x, 0) - log(1 + e) for e = e^-|x|
template <class T> FASTITER_INLINE vec<T> log_sigmoid(vec<T> x, vec<T> e) {
    return select<T>(x > T(0), vec<T>{}, x) - log1p_up_to_1<T>(e);
}

// log(1 / (1 + e^-x))
template <class T> FASTITER_INLINE vec<T> log_sigmoid(vec<T> x) {
    return log_sigmoid<T>(x, exp_of_nonpositive<T>(minus_magnitude<T>(x)));
}

// e[i] = e^-|x[i]| for `Count` vectors, operation by operation like sigmoids
template <class T, int Count> FASTITER_INLINE void exp_of_magnitudes(const vec<T>* x, vec<T>* e) {
    using C = ExpConstants<T>;
    constexpr int degree = sizeof(C::q) / sizeof(C::q[0]) - 1;
    vec<T> n[Count], r[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) r[i] = at_least<T>(minus_magnitude<T>(x[i]), C::lowest);
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) n[i] = fma(r[i], C::log2e, C::round) - C::round;
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) r[i] = fma(n[i], -C::ln2_lo, fma(n[i], -C::ln2_hi, r[i]));
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) e[i] = broadcast(C::q[degree]);
#pragma GCC unroll 16
    for (int k = degree - 1; k >= -2; --k)
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) e[i] = fma(e[i], r[i], broadcast(k < 0 ? T(1) : C::q[k < 0 ? 0 : k]));
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) e[i] = scale<T>(e[i], n[i]);
}

// y[i] = log(1 + e^x[i]) = max(x[i], 0) + log(1 + e[i]), as in torch: x itself above 20. e = e^-|x|; in float a
// polynomial replaces the division of log1p_up_to_1.
template <class T, int Count> FASTITER_INLINE void softplus(const vec<T>* x, const vec<T>* e, vec<T>* y) {
    if constexpr (sizeof(T) == 8) {
        for (int i = 0; i < Count; ++i) y[i] = select<T>(x[i] < T(0), vec<T>{}, x[i]) + log1p_up_to_1<T>(e[i]);
    } else {
        // minimax on 0 <= e <= 1 of log(1 + e) / e, relative error 7e-8
        constexpr float c[] = {0.99999997f,   -0.499994931f, 0.333190968f,   -0.248429818f, 0.191060051f,
                               -0.136632423f, 0.0782259105f, -0.0295052134f, 0.00523268792f};
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) y[i] = broadcast(c[8]);
#pragma GCC unroll 8
        for (int k = 7; k >= 0; --k)
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) y[i] = fma(y[i], e[i], broadcast(c[k]));
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) y[i] = fma(y[i], e[i], select<T>(x[i] < T(0), vec<T>{}, x[i]));
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) y[i] = select<T>(x[i] > T(20), x[i], y[i]);
}

template <class T> FASTITER_INLINE vec<T> softplus(vec<T> x) {
    vec<T> e, y;
    exp_of_magnitudes<T, 1>(&x, &e);
    softplus<T, 1>(&x, &e, &y);
    return y;
}

} // namespace fastiter::FASTITER_LEVEL
