// One fixed-point assignment on vectors of accumulators: c = overflow(round((c 2^shift + p) / 2^shift)). The caller
// guarantees that c + p 2^-shift, and p plus its rounding offset, fit in the lanes.
#pragma once
#include "core/cpu/simd_int.hpp"
#include "quant/cpu/matmul/fixed_kernels.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

// The roundings that loops are compiled for: kNoRounding, where p is in the accumulator's own units; half_up, which stands
// for down, half_up and half_down: they do not depend on the accumulator, so p alone is rounded, and differ only in
// Target::add; and zero, half_zero, half_away and even, which depend on the sign or the last bit of the sum.
constexpr Rounding kNoRounding = Rounding(-1);
constexpr bool looks_at_sum(Rounding r) { return r != kNoRounding && r != Rounding::half_up; }

inline Rounding rounding_of_loop(const FixedTarget& t) {
    if (t.shift <= 0) return kNoRounding;
    return t.rounding == Rounding::down || t.rounding == Rounding::half_down ? Rounding::half_up : t.rounding;
}
template <class F> FASTITER_INLINE auto with_rounding(Rounding r, F&& f) {
    using enum Rounding;
    return with_constant<kNoRounding, half_up, zero, half_zero, half_away, even>(r, f);
}

// The overflows that loops are compiled for: kNoOverflow, where the sum cannot overflow, or wraps once at the end;
// saturate, zero and wrap; and wrap_some, which stands for the others: saturated bits, or sign and magnitude, selected at
// run time.
constexpr Overflow kNoOverflow = Overflow(-1);

inline Overflow overflow_of_loop(const FixedTarget& t, bool wraps_once) {
    if (wraps_once) return kNoOverflow;
    return t.overflow > Overflow::wrap ? Overflow::wrap_some : t.overflow;
}
template <class F> FASTITER_INLINE auto with_overflow(Overflow o, F&& f) {
    using enum Overflow;
    return with_constant<kNoOverflow, saturate, zero, wrap, wrap_some>(o, f);
}

// The scalar operands of an assignment, which the compiler keeps in registers as long as they fit.
template <class T> struct Target {
    int shift = 0; // at least 0
    T add = 0;     // added to p before the shift
    T rest = 0;    // mask of the bits that the shift drops
    T tie = 0;     // the dropped bits of a tie
    T lo = 0, hi = 0;
    T mask = 0; // ones in the format's bits
    // For wrap_some: number of low bits that are kept, their mask, and the high bits of negative and positive results
    int width = 1, low = 0;
    T low_mask = 0, high_negative = 0, high_positive = 0;
    bool by_sign = false, by_low_sign = false, by_floor = false;
};

template <class T> Target<T> target_of(const FixedTarget& f) {
    constexpr int kBits = 8 * sizeof(T);
    Target<T> t;
    // More fractional bits than T has are all dropped alike.
    t.shift = int(f.shift < 0 ? 0 : min_of(f.shift, kBits - 1));
    auto ones = [](int n) { return n == 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; };
    if (t.shift > 0) {
        t.rest = T(ones(t.shift));
        t.tie = T(uint64_t(1) << (t.shift - 1));
        if (f.rounding == Rounding::half_up)
            t.add = t.tie;
        else if (f.rounding != Rounding::down && f.rounding != Rounding::zero)
            t.add = T(t.tie - 1);
    }
    t.hi = T(ones(f.width - f.is_signed));
    t.lo = f.is_signed ? T(-t.hi - 1) : T(0);
    if (f.symmetric) t.lo = T(-t.hi);
    t.mask = T(ones(f.width));
    t.width = f.width;
    t.low = f.width - f.saturated_bits;
    t.low_mask = T(ones(t.low));
    t.by_floor = f.overflow == Overflow::sign_magnitude;
    t.by_sign = f.overflow == Overflow::sign_magnitude_one;
    t.by_low_sign = f.overflow == Overflow::sign_magnitude_some;
    t.high_positive = T(t.hi & ~t.low_mask);
    t.high_negative = f.is_signed ? t.lo : t.high_positive;
    return t;
}

// The code of the format with the same low bits
template <class T> FASTITER_INLINE vec<T> wrapped(vec<T> f, const Target<T>& t) {
    return add_mod<T>(sub_mod<T>(f, splat(t.lo)) & t.mask, splat(t.lo));
}

// All ones where bit `bit` is set
template <class T> FASTITER_INLINE vec<T> bit_mask(vec<T> f, int bit) {
    return sign_mask<T>(shift_left<T>(f, int(8 * sizeof(T)) - 1 - bit));
}

// wrap_some and sign_magnitude*; f is rounded, `floor` is not.
template <class T> inline vec<T> other_overflow(vec<T> f, vec<T> floor, const Target<T>& t) {
    const vec<T> negative = sign_mask<T>(f);
    const mask<T> outside = (f < t.lo) | (f > t.hi);
    vec<T> u = f;
    if (t.by_floor)
        u ^= bit_mask<T>(floor, t.width) ^ bit_mask<T>(f, t.width - 1);
    else if (t.by_sign)
        u ^= negative ^ bit_mask<T>(f, t.width - 1);
    else if (t.by_low_sign)
        u ^= ~(negative ^ bit_mask<T>(f, t.low));
    if (t.by_floor || t.by_sign)
        u = wrapped<T>(u, t);
    else
        u = (u & t.low_mask) | ((negative & t.high_negative) | (~negative & t.high_positive));
    return outside ? u : f;
}

// c + p, assigned
template <class T, Rounding R, Overflow O> FASTITER_INLINE vec<T> assign(vec<T> c, vec<T> p, const Target<T>& t) {
    constexpr bool looks = looks_at_sum(R);
    vec<T> q = p;
    if constexpr (R == Rounding::zero)
        q = p >> t.shift;
    else if constexpr (R != kNoRounding)
        q = add_mod<T>(p, splat(t.add)) >> t.shift;
    vec<T> f;
    if constexpr (sizeof(T) == 2 && O == Overflow::saturate && !looks)
        f = add_saturated(c, q);
    else
        f = add_mod<T>(c, q);
    if constexpr (looks) {
        // So far ties are rounded down; for zero, so is every value. The compare masks are -1 where one has to be
        // added.
        const vec<T> rest = p & t.rest;
        if constexpr (R == Rounding::zero)
            f -= sign_mask<T>(f) & (vec<T>)(rest != 0);
        else if constexpr (R == Rounding::half_zero)
            f -= sign_mask<T>(f) & (vec<T>)(rest == t.tie);
        else if constexpr (R == Rounding::half_away)
            f -= ~sign_mask<T>(f) & (vec<T>)(rest == t.tie);
        else
            f += f & 1 & (vec<T>)(rest == t.tie);
    }
    if constexpr (O == Overflow::saturate)
        f = smaller<T>(larger<T>(f, splat(t.lo)), splat(t.hi));
    else if constexpr (O == Overflow::zero)
        f = ((f < t.lo) | (f > t.hi)) ? vec<T>{} : f;
    else if constexpr (O == Overflow::wrap)
        f = wrapped<T>(f, t);
    else if constexpr (O == Overflow::wrap_some)
        f = other_overflow<T>(f, add_mod<T>(c, p >> t.shift), t);
    return f;
}

} // namespace fastiter::quant::FASTITER_LEVEL
