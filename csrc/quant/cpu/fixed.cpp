// Fixed point with every rounding and overflow mode, in floating point. Formats that exceed T's precision:
// wide.cpp.
#include "quant/cpu/quantize.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

template <class T> struct Constants {
    vec<T> to_code, from_code, lowest, highest, low, high, nan;
    Modulus<T> all, wrapped, twice_wrapped; // 2^bits of a code, of the bits that wrapping keeps, of one more bit
    vec<T> if_negative, if_positive;        // the saturated bits
    Overflow overflow;
    bool divide, scale_down, is_signed;

    explicit Constants(const QuantFormat& f)
        : to_code(broadcast(T(f.fixed.to_code))), from_code(broadcast(T(f.fixed.from_code))),
          lowest(broadcast(T(f.fixed.lowest))), highest(broadcast(T(f.fixed.highest))), low(broadcast(T(f.fixed.low))),
          high(broadcast(T(f.fixed.high))), nan(broadcast(T(f.nan))), all(power(f.fixed.width)),
          wrapped(power(f.fixed.width - f.fixed.saturated)),
          twice_wrapped(power(f.fixed.width - f.fixed.saturated + 1)), overflow(f.overflow), divide(f.fixed.divide),
          scale_down(f.fixed.to_code < 1), is_signed(f.fixed.is_signed) {
        const double half = power(f.fixed.width) / 2, low_bits = power(f.fixed.width - f.fixed.saturated);
        if_negative = broadcast(T(is_signed ? -half : 2 * half - low_bits));
        if_positive = broadcast(T(is_signed ? half - low_bits : 2 * half - low_bits));
    }
    static double power(int bits) {
        return double(uint64_t(1) << (bits / 2)) * double(uint64_t(1) << (bits - bits / 2));
    }
};

// The bits of -1 - s are the inverted bits of s.
template <class T> FASTITER_INLINE vec<T> inverted_where(mask<T> m, vec<T> s) { return select<T>(m, T(-1) - s, s); }

template <class T> FASTITER_INLINE vec<T> with_saturated_bits(vec<T> low, mask<T> negative, const Constants<T>& c) {
    return low + select<T>(negative, c.if_negative, c.if_positive);
}

// sign_magnitude*, selected at run time, as this is called only for numbers out of range. r: the rounded number, v: the
// number before rounding.
template <class T> FASTITER_NOINLINE vec<T> with_sign(vec<T> r, vec<T> v, const Constants<T>& c) {
    const mask<T> negative = r < T(0);
    vec<T> s;
    if (c.overflow == Overflow::sign_magnitude) {
        s = signed_modulo<T>(r, c.all);
        // The bit above the highest, before rounding
        const vec<T> above = rest_of_turn<T, kDown>(nearby<T, kDown>(v) * T(0.5), c.all);
        s = inverted_where<T>((above >= T(0.5)) ^ (s < T(0)), s);
    } else if (c.overflow == Overflow::sign_magnitude_one) {
        s = signed_modulo<T>(r, c.all);
        s = inverted_where<T>(negative ^ (s < T(0)), s);
    } else {
        const vec<T> low = modulo<T>(r, c.twice_wrapped);
        const mask<T> bit = low >= c.wrapped.size;
        const vec<T> wrapped = low - (vec<T>)(bit & (mask<T>)c.wrapped.size);
        s = with_saturated_bits<T>(select<T>(bit ^ negative, wrapped, c.wrapped.size - T(1) - wrapped), negative, c);
    }
    return select<T>((r < c.lowest) | (r > c.highest), s, r);
}

// Applies the overflow mode; O: saturate, zero, wrap, wrap_some, or sign_magnitude for all of these.
template <class T, Overflow O> FASTITER_INLINE vec<T> in_range(vec<T> r, vec<T> v, const Constants<T>& c) {
    if constexpr (O == Overflow::saturate) return min_keeping_nan(c.high, max_keeping_nan(c.low, r));
    if constexpr (O == Overflow::wrap) return c.is_signed ? signed_modulo<T>(r, c.all) : modulo<T>(r, c.all);
    if (!any_outside<T>(r, c.lowest, c.highest)) return r; // the common case
    if constexpr (O == Overflow::sign_magnitude) return with_sign<T>(r, v, c);
    const mask<T> out = (r < c.lowest) | (r > c.highest);
    if constexpr (O == Overflow::zero) return (vec<T>)((mask<T>)r & ~out);
    return out ? with_saturated_bits<T>(modulo<T>(r, c.wrapped), r < T(0), c) : r;
}

template <class T, Rounding R, Overflow O, bool Full>
void fixed(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
           bool stream) {
    const Constants<T> c(f);
    Counters<T> count;
    const bool nan =
        each_vector<T, R == Rounding::stochastic>(x, y, n, random, stream, [&](vec<T> x_i, random_words<T> words) {
            const vec<T> from = Full ? select<T>(x_i != x_i, c.nan, x_i) : x_i;
            const vec<T> v = c.divide ? from / c.to_code : times_power<T>(from, c.to_code, c.scale_down);
            const vec<T> r = whole<T, R>(v, words);
            if constexpr (Full) {
                count.nan.add(x_i != x_i);
                count.overflow.add((r < c.lowest) | (r > c.highest));
                count.underflow.add((r == T(0)) & (v != T(0)));
            }
            return fma(in_range<T, O>(r, v, c), c.from_code, vec<T>{}); // + 0 turns -0 into 0
        });
    if constexpr (Full)
        count.add_to(counts);
    else
        counts.nan += nan;
}

// The range applies to the codes, so each element's zero point shifts it.
template <class T, Rounding R>
void shifted(const QuantFormat& f, const T* x, const T* zero_point, T* y, int64_t n, const uint32_t* random,
             QuantCounts& counts) {
    const vec<T> low = broadcast(T(f.fixed.low)), high = broadcast(T(f.fixed.high)), nan = broadcast(T(f.nan));
    Counters<T> count;
    for (int64_t i = 0; i < n; i += lanes<T>) {
        const vec<T> x_i = load_up_to(x + i, n - i), zero = load_up_to(zero_point + i, n - i);
        const vec<T> from = select<T>(x_i != x_i, nan, x_i);
        random_words<T> words{};
        if constexpr (R == Rounding::stochastic) words = load_random<T>(random + i);
        const vec<T> r = whole<T, R>(from, words), shifted = r + zero;
        const vec<T> code = min_keeping_nan(high, max_keeping_nan(low, shifted));
        count.nan.add(x_i != x_i);
        count.overflow.add((shifted < low) | (shifted > high));
        count.underflow.add((r == T(0)) & (from != T(0)));
        store_up_to(y + i, f.codes ? code : code - zero + T(0), n - i);
    }
    count.add_to(counts);
}

template <class T, Rounding R, bool Full> QuantKernel<T> with_overflow(Overflow o) {
    using enum Overflow;
    return with_constant<saturate, zero, wrap, wrap_some, sign_magnitude>(
        o, []<Overflow O>() -> QuantKernel<T> { return fixed<T, R, O, Full>; });
}

} // namespace

template <class T> QuantKernel<T> fixed_kernel(const QuantFormat& f) {
    return with_fixed_rounding(f.rounding, [&]<Rounding R>() {
        return f.count ? with_overflow<T, R, true>(f.overflow) : with_overflow<T, R, false>(f.overflow);
    });
}
template QuantKernel<float> fixed_kernel<float>(const QuantFormat&);
template QuantKernel<double> fixed_kernel<double>(const QuantFormat&);

template <class T>
void shifted_integers(const QuantFormat& f, const T* x, const T* zero_point, T* y, int64_t n, const uint32_t* random,
                      QuantCounts& counts) {
    with_fixed_rounding(f.rounding, [&]<Rounding R>() { shifted<T, R>(f, x, zero_point, y, n, random, counts); });
}
template void shifted_integers(const QuantFormat&, const float*, const float*, float*, int64_t, const uint32_t*,
                               QuantCounts&);
template void shifted_integers(const QuantFormat&, const double*, const double*, double*, int64_t, const uint32_t*,
                               QuantCounts&);

} // namespace fastiter::quant::FASTITER_LEVEL
