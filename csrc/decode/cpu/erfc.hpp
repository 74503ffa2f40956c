// The distribution function of the normal distribution, for GELU.
#pragma once
#include "core/cpu/vmath.hpp"

namespace fastiter::decode::FASTITER_LEVEL {

using namespace fastiter::FASTITER_LEVEL;

// g(t), with which erfc(a) = g(t) e^(-a^2) / (1 + 2 a) for a >= 0 and t = (a - 3.75) / (a + 3.75): the Chebyshev
// interpolant on -1 <= t <= 1, as a polynomial in t
template <class T> struct Erfc;
template <> struct Erfc<float> {
    static constexpr float g[] = {1.23751259f,     -0.140240654f,  0.00358627038f,  0.082278423f,
                                  -0.108814269f,   0.0922907665f,  -0.0586468577f,  0.0284092519f,
                                  -0.00984449498f, 0.00167591218f, 0.000396307616f, -0.000224116753f};
};
template <> struct Erfc<double> {
    static constexpr double g[] = {
        1.2375126308378275,     -0.14024059858554527,    0.003585415485478988,    0.08227673848999556,
        -0.10880393014244283,   0.0923043211642692,      -0.05869339857668205,    0.02836227737224315,
        -0.009746579682963724,  0.0017556261644100957,   0.0002937143764467866,   -0.0002901553496687046,
        5.164653495285803e-05,  2.2387559563881224e-05,  -1.1438058813614836e-05, -9.792540886654e-07,
        1.7419963257100801e-06, -5.0851767379225756e-08, -2.485827057854595e-07,  1.8794137768859175e-08,
        3.198444210281519e-08,  -1.955793437609132e-09,  -2.6241097414385027e-09};
};

// erfc(-x / sqrt 2) / 2, whose relative error grows with x^2 where it is small
template <class T> FASTITER_INLINE vec<T> normal_cdf(vec<T> x) {
    constexpr int degree = sizeof(Erfc<T>::g) / sizeof(T) - 1;
    const vec<T> a = at_most<T>(magnitude<T>(x) * T(0.70710678118654752440), T(40)); // beyond it the result is 0
    const vec<T> t = (a - T(3.75)) / (a + T(3.75));
    vec<T> p = broadcast(Erfc<T>::g[degree]);
#pragma GCC unroll 32
    for (int i = degree - 1; i >= 0; --i) p = fma(p, t, broadcast(Erfc<T>::g[i]));
    const vec<T> tail = T(0.5) * exp_of_nonpositive<T>(-(a * a)) * p / fma(a, T(2), broadcast(T(1)));
    return select<T>(x > T(0), T(1) - tail, tail);
}

} // namespace fastiter::decode::FASTITER_LEVEL
