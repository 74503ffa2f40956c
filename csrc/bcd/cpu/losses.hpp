// Logistic and softmax losses along a line z + t d, by vectors of samples.
#pragma once
#include "bcd/cpu/kernels.hpp"
#include "core/cpu/vmath.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {

// log(1 + r) for r >= 0; 1 + r = 2^e m with m in [sqrt(1/2), sqrt(2)), and log m = 2 atanh(s), s = (m - 1) / (m + 1)
FASTITER_INLINE vec<double> log1p_of_nonnegative(vec<double> r) {
    constexpr int terms = 10; // terms s^(2k) / (2k + 1); |s| <= 0.172
    const vec<double> x = r + 1.0, rounded = r - (x - 1.0);
    const mask<double> bits = (mask<double>)x;
    vec<double> e = __builtin_convertvector((bits >> 52) - 1023, vec<double>);
    vec<double> m = (vec<double>)((bits & 0xfffffffffffff) | 0x3ff0000000000000);
    const mask<double> large = m > 1.4142135623730951;
    m = select<double>(large, m * 0.5, m);
    e = select<double>(large, e + 1.0, e);
    const vec<double> s = (m - 1.0) / (m + 1.0), s2 = s * s;
    vec<double> p = broadcast(1.0 / (2 * terms + 1));
#pragma GCC unroll 16
    for (int k = terms - 1; k > 0; --k) p = fma(p, s2, broadcast(1.0 / (2 * k + 1)));
    const vec<double> of_m = fma(s * s2, p, s) * 2.0;
    return fma(e, broadcast(0.69314718055994530942), of_m + rounded / x);
}

// Sums of lanes over a chunk of samples
struct LineSums {
    vec<double> loss{}, slope{}, curvature{};
};

FASTITER_INLINE void logistic_losses(const Losses& p, int64_t i, int64_t count, vec<double> weight, LineSums& sums) {
    const vec<double> d = load_up_to(p.d + i, count), z = fma(d, broadcast(p.t), load_up_to(p.z + i, count));
    const vec<double> sign = load_up_to(p.b + i, count) * 2.0 - 1.0, y = sign * z; // the larger, the smaller the loss
    const vec<double> e = exp_of_nonpositive<double>(minus_magnitude<double>(y));
    const vec<double> wrong = select<double>(y < 0.0, broadcast(1.0), e) / (e + 1.0); // 1 - probability of the label
    const vec<double> u = -sign * weight * wrong;
    store_up_to(p.u + i, u, count);
    sums.loss -= weight * log_sigmoid<double>(y, e);
    sums.slope = fma(u, d, sums.slope);
    sums.curvature = fma(weight * wrong * (1.0 - wrong), d * d, sums.curvature);
}

FASTITER_INLINE void softmax_losses(const Losses& p, int64_t i, int64_t count, vec<double> weight, LineSums& sums) {
    const auto z_of = [&](int64_t k) {
        const int64_t at = k * p.n + i;
        return fma(load_up_to(p.d + at, count), broadcast(p.t), load_up_to(p.z + at, count));
    };
    const vec<double> label = load_up_to(p.b + i, count);
    vec<double> top = z_of(0), own = top;
    for (int64_t k = 1; k < p.classes; ++k) {
        const vec<double> z = z_of(k);
        top = select<double>(z > top || z != z, z, top);
        own = select<double>(label == double(k), z, own);
    }
    // The terms below 1 apart from those that are 1, one of which is taken off: small losses keep their precision.
    vec<double> rest{}, ones{};
    for (int64_t k = 0; k < p.classes; ++k) {
        const vec<double> z = z_of(k), e = exp_of_nonpositive<double>(z - top);
        rest += select<double>(z == top, vec<double>{}, e);
        ones += select<double>(z == top, broadcast(1.0), vec<double>{});
        store_up_to(p.u + k * p.n + i, e, count);
    }
    rest += ones - 1.0;
    const vec<double> inverse = 1.0 / (rest + 1.0);
    vec<double> mean{}, squares{};
    for (int64_t k = 0; k < p.classes; ++k) {
        const int64_t at = k * p.n + i;
        const vec<double> share = load_up_to(p.u + at, count) * inverse, d = load_up_to(p.d + at, count);
        const vec<double> u = weight * (share - select<double>(label == double(k), broadcast(1.0), vec<double>{}));
        mean = fma(share, d, mean);
        squares = fma(share * d, d, squares);
        sums.slope = fma(u, d, sums.slope);
        store_up_to(p.u + at, u, count);
    }
    sums.loss = fma(weight, log1p_of_nonnegative(rest) + (top - own), sums.loss);
    sums.curvature = fma(weight, squares - mean * mean, sums.curvature);
}

constexpr double kOnes[8] = {1, 1, 1, 1, 1, 1, 1, 1};

template <class Each> FASTITER_INLINE void for_chunks(const Losses& p, Team team, Each each) {
    constexpr int W = lanes<double>;
    const int64_t chunks = ceil_div(p.n, kLossRows);
    for (int64_t c = team.id; c < chunks; c += team.size) {
        LineSums sums;
        const int64_t end = min_of(p.n, (c + 1) * kLossRows);
        for (int64_t i = c * kLossRows; i < end; i += W) {
            const int64_t count = end - i;
            each(i, count, load_up_to(p.weight ? p.weight + i : kOnes, count), sums);
        }
        double* out = p.sums + 3 * c;
        out[0] = sum_of(sums.loss);
        out[1] = sum_of(sums.slope);
        out[2] = sum_of(sums.curvature);
    }
}

inline void losses(const Losses& p, Team team) {
    if (p.classes == 1)
        for_chunks(p, team, [&](int64_t i, int64_t count, vec<double> weight, LineSums& sums) {
            logistic_losses(p, i, count, weight, sums);
        });
    else
        for_chunks(p, team, [&](int64_t i, int64_t count, vec<double> weight, LineSums& sums) {
            softmax_losses(p, i, count, weight, sums);
        });
}

} // namespace fastiter::bcd::FASTITER_LEVEL
