// Rounding to the significand and the exponents of a small float.
#pragma once
#include "quant/cpu/rounding.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

template <class T> constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52; // mantissa bits of T
template <class T> constexpr int kBias = sizeof(T) == 4 ? 127 : 1023;
template <class T> using Bits = decltype(mask<T>{}[0] + 0); // the integer type as wide as T
template <class T> FASTITER_INLINE mask<T> all_bits(Bits<T> b) { return b - mask<T>{}; }
// The bits of 2^e, a normal number
template <class T> FASTITER_INLINE constexpr Bits<T> bits_of_power(int e) {
    return Bits<T>(e + kBias<T>) << kMantissa<T>;
}

template <class T> FASTITER_INLINE T power_of_2(int e) { return __builtin_bit_cast(T, bits_of_power<T>(e)); }

// Rounds x to `mantissa` bits after the leading one, with exponents of at least min_exponent: x / 2^e, where 2^e is the
// value of the result's last bit, is rounded to an integer. If min_exponent - mantissa >= 1 - bias and min_exponent <=
// mantissa, both factors are normal numbers of T and the quotient is exact.
template <class T> struct Significand {
    mask<T> exponents, smallest, largest, to_whole, from_whole;
    bool bare; // no mantissa
    bool down_where_odd;

    Significand(int mantissa, int min_exponent, bool has_zero)
        : exponents(all_bits<T>(bits_of_power<T>(kBias<T> + 1))), smallest(all_bits<T>(bits_of_power<T>(min_exponent))),
          // Larger exponents are infinity. Without a mantissa, the factor of 2^bias itself would not be a normal
          // number; numbers that large exceed every number of the format, whatever they are rounded to.
          largest(all_bits<T>(bits_of_power<T>(kBias<T> - (mantissa == 0)))),
          to_whole(all_bits<T>(bits_of_power<T>(kBias<T> + mantissa))),
          from_whole(all_bits<T>(Bits<T>(mantissa) << kMantissa<T>)), bare(mantissa == 0),
          down_where_odd(((min_exponent + kBias<T>)&1) != int(has_zero)) {}
};

// zero: 0 or -0; with 0, the result is never -0.
template <class T, Rounding R>
FASTITER_INLINE vec<T> to_significand(vec<T> x, random_words<T> random, const Significand<T>& s, vec<T> zero) {
    const vec<T> e = (vec<T>)((mask<T>)x & s.exponents);
    const vec<T> power = min_keeping_nan((vec<T>)s.largest, max_keeping_nan((vec<T>)s.smallest, e));
    const vec<T> v = x * (vec<T>)((raw_bits<T>)s.to_whole - (raw_bits<T>)power);
    vec<T> r = whole<T, R>(v, random);
    if constexpr (R == Rounding::even)
        if (s.bare) {
            // Codes count powers of two. A tie (1.5) goes to the lower one if its code is even, which is at odd or at
            // even exponents, depending on the first code.
            const mask<T> odd = -(((mask<T>)power >> kMantissa<T>)&1);
            const mask<T> down = (magnitude_of<T>(v) == T(1.5)) & (s.down_where_odd ? odd : ~odd);
            r = select<T>(down, copy_sign<T>(broadcast(T(1)), v), r);
        }
    // These modes have added 0, which turns -0 into 0.
    if constexpr (R == Rounding::half_away || R == Rounding::away || R == Rounding::stochastic) r = copy_sign<T>(r, x);
    return fma(r, (vec<T>)((raw_bits<T>)power - (raw_bits<T>)s.from_whole), zero);
}

// The same for formats with T's own exponent range, including subnormals: rounds off the last `dropped` bits.
template <class T, Rounding R> FASTITER_INLINE vec<T> without_bits(vec<T> x, random_words<T> random, int dropped) {
    using Signed = typename random_words_of<T>::as_signed;
    if (dropped == 0) return x;
    const mask<T> sign = (mask<T>)x & sign_bit<T>(), b = (mask<T>)x & ~sign_bit<T>();
    const Bits<T> last = Bits<T>(1) << dropped, half = last >> 1;
    mask<T> add{};
    if constexpr (R == Rounding::even) add = half - 1 + ((b >> dropped) & 1);
    if constexpr (R == Rounding::half_away) add = all_bits<T>(half);
    if constexpr (R == Rounding::away) add = all_bits<T>(last - 1);
    if constexpr (R == Rounding::down) add = (sign != 0) & (last - 1);
    if constexpr (R == Rounding::up) add = (sign == 0) & (last - 1);
    if constexpr (R == Rounding::stochastic) {
        const mask<T> r = __builtin_convertvector((Signed)(random >> 1), mask<T>);
        add = dropped <= kRandomBits ? r >> (kRandomBits - dropped) : r << (dropped - kRandomBits);
    }
    const mask<T> sum = (mask<T>)((raw_bits<T>)b + (raw_bits<T>)add); // may wrap for NaN, whose result is not used
    const vec<T> y = (vec<T>)((sum & -last) | sign);
    return select<T>(x != x, x + T(0), y);
}

} // namespace fastiter::quant::FASTITER_LEVEL
