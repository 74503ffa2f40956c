// Fixed point with every rounding and overflow, in floating point: exact while codes fit the mantissa. Beyond: quant_wide.cpp
#include "quant.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

template <class T> using whole_of = decltype(mask<T>{}[0] + 0); // the integer as wide as T

template <class T> struct Constants {
    vec<T> to_code, from_code, low, high, nan, to_turns, turns;
    explicit Constants(const QuantFormat& f)
        : to_code(broadcast(T(f.fixed.to_code))), from_code(broadcast(T(f.fixed.from_code))),
          low(broadcast(T(f.fixed.low))), high(broadcast(T(f.fixed.high))), nan(broadcast(T(f.nan))),
          to_turns(broadcast(T(1) / T(int64_t(1) << f.fixed.width))), turns(broadcast(T(int64_t(1) << f.fixed.width))) {}
};

// x to_code. Scaling down could lose the last bits of a number far below the last place: that far, any will do.
template <class T> FASTITER_INLINE vec<T> scaled(vec<T> x, const FixedPoint& p, const Constants<T>& c) {
    if (p.divide) return x / c.to_code;
    const vec<T> v = x * c.to_code;
    if (p.to_code >= 1) return v;
    return magnitude_of<T>(x) < T(sizeof(T) == 4 ? 0x1p-32 : 0x1p-64) ? x : v;
}

// r / 2^width; what is so large that it has no low bits, infinity among it, becomes a whole number of turns.
template <class T> FASTITER_INLINE vec<T> turns_of(vec<T> r, const Constants<T>& c) {
    const T most = T(sizeof(T) == 4 ? 0x1p30 : 0x1p60);
    return at_most<T>(at_least<T>(r * c.to_turns, -most), most);
}

// The low bits of r in two's complement. Every step is exact: a turn has as many places as the mantissa, or fewer.
template <class T> FASTITER_INLINE vec<T> wrapped(vec<T> r, const FixedPoint& p, const Constants<T>& c) {
    const vec<T> t = turns_of<T>(r, c);
    return (t - nearby<T, kDown>(t + T(p.is_signed ? 0.5 : 0))) * c.turns;
}

// The other kinds of wrapping, for r out of range, on the low bits as integers. v: the number before rounding.
template <class T>
FASTITER_INLINE vec<T> wrapped_bits(vec<T> r, vec<T> v, const FixedPoint& p, const Constants<T>& c) {
    using Int = mask<T>;
    const vec<T> t = turns_of<T>(r, c);
    const Int bits = __builtin_convertvector((t - nearby<T, kDown>(t)) * c.turns, Int);
    const Int negative = r < T(0);
    const int width = p.width, kept = width - p.saturated;
    using I = whole_of<T>;
    const I ones = I((uint64_t(1) << width) - 1), low = I((uint64_t(1) << kept) - 1);
    const I sign_and_not = p.saturated ? I(uint64_t(1) << (p.saturated - 1)) : 0;
    // The saturated bits of a negative and of a positive number
    const Int saturated = (negative ? sign_and_not + Int{} : (sign_and_not - 1) + Int{}) << kept;
    Int u = bits;
    if (p.wrapping == Wrapping::saturated_bits) {
        u = (bits & low) | (p.is_signed ? saturated : (ones & ~low) + Int{});
    } else {
        const Int top = -(bits >> (width - 1)); // all ones where the highest bit is set
        Int invert;
        if (p.saturated == 0) {
            const vec<T> beyond = nearby<T, kDown>(turns_of<T>(nearby<T, kDown>(v), c)) * T(0.5);
            invert = top ^ (beyond != nearby<T, kDown>(beyond)); // odd: the bit above the highest, before rounding
        } else if (p.saturated == 1) {
            invert = top ^ negative;
        } else {
            invert = ~(-((bits >> kept) & 1) ^ negative);
        }
        u = (bits ^ invert) & ones;
        if (p.saturated > 1) u = (u & low) | saturated;
    }
    if (p.is_signed) u -= (u >> (width - 1)) << width;
    return __builtin_convertvector(u, vec<T>);
}

template <class T, Overflow O>
FASTITER_INLINE vec<T> in_range(vec<T> r, vec<T> v, mask<T> out, const FixedPoint& p, const Constants<T>& c) {
    if constexpr (O == Overflow::saturate) return min_keeping_nan(c.high, max_keeping_nan(c.low, r));
    if constexpr (O == Overflow::zero) return (vec<T>)((mask<T>)r & ~out);
    if constexpr (O == Overflow::wrap) return wrapped<T>(r, p, c);
    if constexpr (O == Overflow::bits) return out ? wrapped_bits<T>(r, v, p, c) : r;
}

template <class T, Rounding R, Overflow O>
void fixed(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts, bool stream) {
    const Constants<T> c(f);
    Count<T> nan, overflow, underflow;
    each_vector<T, R == Rounding::stochastic>(x, y, n, random, stream, [&](vec<T> given, random_words<T> words) {
        const mask<T> is_nan = given != given;
        nan.add(is_nan);
        const vec<T> from = select<T>(is_nan, c.nan, given);
        const vec<T> v = scaled<T>(from, f.fixed, c);
        const vec<T> r = whole<T, R>(v, words) + T(0); // 0 for -0
        const mask<T> out = (r < c.low) | (r > c.high);
        overflow.add(out);
        underflow.add((r == T(0)) & (from != T(0)));
        return in_range<T, O>(r, v, out, f.fixed, c) * c.from_code;
    });
    counts.nan += nan.total(), counts.overflow += overflow.total(), counts.underflow += underflow.total();
}

template <class T, Rounding R> constexpr QuantKernel<T> row(Overflow o) {
    constexpr QuantKernel<T> all[] = {fixed<T, R, Overflow::saturate>, fixed<T, R, Overflow::zero>,
                                      fixed<T, R, Overflow::wrap>, fixed<T, R, Overflow::bits>};
    return all[int(o)];
}

} // namespace

template <class T> QuantKernel<T> fixed_kernel(const QuantFormat& f) {
    const Overflow o = f.overflow;
    switch (f.rounding) {
    case Rounding::down:
        return row<T, Rounding::down>(o);
    case Rounding::zero:
        return row<T, Rounding::zero>(o);
    case Rounding::half_up:
        return row<T, Rounding::half_up>(o);
    case Rounding::half_zero:
        return row<T, Rounding::half_zero>(o);
    case Rounding::half_down:
        return row<T, Rounding::half_down>(o);
    case Rounding::half_away:
        return row<T, Rounding::half_away>(o);
    case Rounding::even:
        return row<T, Rounding::even>(o);
    default:
        return row<T, Rounding::stochastic>(o);
    }
}
template QuantKernel<float> fixed_kernel<float>(const QuantFormat&);
template QuantKernel<double> fixed_kernel<double>(const QuantFormat&);

} // namespace fastiter::FASTITER_LEVEL
