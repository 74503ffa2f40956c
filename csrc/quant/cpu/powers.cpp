// Fixed point whose codes are sums of a few powers of two.
#include "quant/cpu/quantize.hpp"
#include "quant/cpu/significand.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

template <class T> struct Powers {
    mask<T> exponents;
    int terms;
    bool nearest;

    explicit Powers(const QuantFormat& f)
        : exponents(all_bits<T>(bits_of_power<T>(kBias<T> + 1))), terms(f.powers.terms), nearest(f.powers.nearest) {}

    // The power of two at or below a magnitude, or the nearest one: adding half an exponent carries from 1.5 on.
    FASTITER_INLINE vec<T> power(vec<T> a) const {
        const mask<T> half = all_bits<T>(nearest ? Bits<T>(1) << (kMantissa<T> - 1) : 0);
        return (vec<T>)(((mask<T>)a + half) & exponents & ((mask<T>)(a != T(0))));
    }

    // Approximates an integer by `terms` powers of two.
    FASTITER_INLINE vec<T> sum(vec<T> code) const {
        vec<T> total{}, rest = code;
        for (int i = 0; i < terms; ++i) {
            const vec<T> next = copy_sign<T>(power(magnitude_of<T>(rest)), rest);
            total += next;
            rest -= next;
        }
        return total;
    }
};

template <class T, Rounding R, bool Full>
void sum_of_powers(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
                   bool stream) {
    const Powers<T> powers(f);
    const vec<T> to_code = broadcast(T(f.fixed.to_code)), from_code = broadcast(T(f.fixed.from_code));
    const vec<T> low = broadcast(T(f.fixed.low)), high = broadcast(T(f.fixed.high)), nan = broadcast(T(f.nan));
    Counters<T> count;
    const bool any_nan =
        each_vector<T, R == Rounding::stochastic>(x, y, n, random, stream, [&](vec<T> raw, random_words<T> words) {
            const vec<T> from = Full ? select<T>(raw != raw, nan, raw) : raw;
            const vec<T> r = whole<T, R>(times_power<T>(from, to_code, f.fixed.to_code < 1), words);
            if constexpr (Full) {
                count.nan.add(raw != raw);
                count.overflow.add((r < low) | (r > high));
                count.underflow.add((r == T(0)) & (from != T(0)));
            }
            const vec<T> sum = powers.sum(min_keeping_nan(high, max_keeping_nan(low, r)));
            return select<T>(from != from, from, fma(sum, from_code, vec<T>{}));
        });
    if constexpr (Full)
        count.add_to(counts);
    else
        counts.nan += any_nan;
}

} // namespace

template <class T> QuantKernel<T> powers_kernel(const QuantFormat& f) {
    return with_fixed_rounding(f.rounding, [&]<Rounding R>() -> QuantKernel<T> {
        return f.count ? sum_of_powers<T, R, true> : sum_of_powers<T, R, false>;
    });
}
template QuantKernel<float> powers_kernel<float>(const QuantFormat&);
template QuantKernel<double> powers_kernel<double>(const QuantFormat&);

} // namespace fastiter::quant::FASTITER_LEVEL
