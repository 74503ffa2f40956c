// Small floats with every rounding, overflow and set of special values. Formats beyond T's exponent range:
// wide.cpp.
#include "quant/cpu/quantize.hpp"
#include "quant/cpu/significand.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

template <class T> struct Constants {
    Significand<T> significand;
    vec<T> largest, over, under, infinite, minus_infinite, negative, smallest, nan, zero;
    int dropped;
    bool is_signed, infinity_differs, negative_zero;

    explicit Constants(const QuantFormat& f)
        : significand(f.small.mantissa, f.small.own_exponents ? 0 : f.small.min_exponent, f.small.has_zero),
          largest(broadcast(T(f.small.largest))), over(broadcast(T(f.small.over))), under(broadcast(T(f.small.under))),
          infinite(broadcast(T(f.small.infinite))), minus_infinite(broadcast(T(f.small.minus_infinite))),
          negative(broadcast(T(f.small.negative))), smallest(broadcast(T(f.small.smallest))), nan(broadcast(T(f.nan))),
          zero(broadcast(T(f.small.negative_zero ? -0.0 : 0.0))), dropped(kMantissa<T> - f.small.mantissa),
          is_signed(f.small.is_signed), infinity_differs(f.small.infinity_differs),
          negative_zero(f.small.negative_zero) {}
};

template <class T, bool Saturate> FASTITER_INLINE vec<T> in_range(vec<T> y, vec<T> x, const Constants<T>& c) {
    if constexpr (Saturate) {
        y = min_keeping_nan(c.largest, max_keeping_nan(-c.largest, y));
    } else if (any_outside<T>(y, -c.largest, c.largest)) {
        const mask<T> above = y > c.largest, below = y < -c.largest;
        y = select<T>(above, c.over, select<T>(below, c.under, y));
        if (c.infinity_differs) {
            const vec<T> infinity = broadcast(T(__builtin_inf()));
            y = select<T>(x == infinity, c.infinite, select<T>(x == -infinity, c.minus_infinite, y));
        }
    }
    if (!c.is_signed) y = max_keeping_nan(c.smallest, select<T>(x < T(0), c.negative, y));
    return y;
}

template <class T, Rounding R, bool Saturate, bool Own, bool Full>
void small_float(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
                 bool stream) {
    const Constants<T> c(f);
    Counters<T> count;
    const bool nan =
        each_vector<T, R == Rounding::stochastic>(x, y, n, random, stream, [&](vec<T> raw, random_words<T> words) {
            const vec<T> from = Full ? select<T>(raw != raw, c.nan, raw) : raw;
            vec<T> r;
            if constexpr (Own) {
                r = without_bits<T, R>(from, words, c.dropped);
                if (!c.negative_zero) r = r + c.zero;
            } else
                r = to_significand<T, R>(from, words, c.significand, c.zero);
            const vec<T> fits = in_range<T, Saturate>(r, from, c);
            if constexpr (Full) {
                count.nan.add(raw != raw);
                const mask<T> out = (magnitude_of<T>(r) > c.largest) | (c.is_signed ? mask<T>{} : from < T(0));
                count.overflow.add(out);
                count.underflow.add((fits == T(0)) & (from != T(0)) & ~out);
            }
            return fits;
        });
    if constexpr (Full)
        count.add_to(counts);
    else
        counts.nan += nan;
}

template <class T, Rounding R, bool Saturate> QuantKernel<T> with_counts(const QuantFormat& f) {
    if (f.small.own_exponents)
        return f.count ? small_float<T, R, Saturate, true, true> : small_float<T, R, Saturate, true, false>;
    return f.count ? small_float<T, R, Saturate, false, true> : small_float<T, R, Saturate, false, false>;
}

} // namespace

template <class T> QuantKernel<T> float_kernel(const QuantFormat& f) {
    return with_float_rounding(f.rounding, [&]<Rounding R>() {
        return f.overflow == Overflow::saturate ? with_counts<T, R, true>(f) : with_counts<T, R, false>(f);
    });
}
template QuantKernel<float> float_kernel<float>(const QuantFormat&);
template QuantKernel<double> float_kernel<double>(const QuantFormat&);

} // namespace fastiter::quant::FASTITER_LEVEL
