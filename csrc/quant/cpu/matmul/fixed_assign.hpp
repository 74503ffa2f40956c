// One fixed-point assignment on vectors of accumulators: c = overflow(round((c 2^shift + p) / 2^shift)). The caller
// guarantees that c + p 2^-shift, and p plus its rounding offset, fit in the lanes.
#pragma once
#include "core/cpu/simd_int.hpp"
#include "quant/cpu/matmul/fixed_kernels.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

// Rounding of the sum. `none`: p is in the accumulator's own units. `product`: TRN, RND and RND_MIN_INF do not depend
// on the accumulator, so p alone is rounded. The other modes depend on the sign or the last bit of the sum.
enum class Round { none, product, trn_zero, rnd_zero, rnd_inf, rnd_conv };

// Handling of overflow. `nothing`: the sum cannot overflow, or wraps once at the end. `clamp`: SAT and SAT_SYM. `wrap`:
// without saturated bits. `other`: any mode, selected at run time.
enum class Over { nothing, clamp, zero, wrap, other };

inline Round round_of(const FixedTarget& t) {
    if (t.shift <= 0) return Round::none;
    switch (t.rounding) {
    case FixedRounding::trn_zero:
        return Round::trn_zero;
    case FixedRounding::rnd_zero:
        return Round::rnd_zero;
    case FixedRounding::rnd_inf:
        return Round::rnd_inf;
    case FixedRounding::rnd_conv:
        return Round::rnd_conv;
    default:
        return Round::product;
    }
}

inline Over over_of(const FixedTarget& t, bool wraps_once) {
    if (wraps_once) return Over::nothing;
    switch (t.overflow) {
    case FixedOverflow::wrap:
        return t.saturated_bits ? Over::other : Over::wrap;
    case FixedOverflow::sat_zero:
        return Over::zero;
    case FixedOverflow::wrap_sm:
        return Over::other;
    default:
        return Over::clamp;
    }
}

// The scalar operands of an assignment, which the compiler keeps in registers as long as they fit.
template <class T> struct Target {
    int shift = 0; // at least 0
    T add = 0;     // added to p before the shift
    T rest = 0;    // mask of the bits that the shift drops
    T tie = 0;     // the dropped bits of a tie
    T lo = 0, hi = 0;
    T mask = 0; // of the format's bits
    // For `other`: number of low bits that are kept, their mask, and the high bits of negative and positive results
    int width = 1, low = 0;
    T kept = 0, high_negative = 0, high_positive = 0;
    bool is_plain_wrap = true, by_sign = false, by_low_sign = false, by_floor = false;
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
        if (f.rounding == FixedRounding::rnd)
            t.add = t.tie;
        else if (f.rounding != FixedRounding::trn && f.rounding != FixedRounding::trn_zero)
            t.add = T(t.tie - 1);
    }
    t.hi = T(ones(f.width - f.is_signed));
    t.lo = f.is_signed ? T(-t.hi - 1) : T(0);
    if (f.overflow == FixedOverflow::sat_sym && f.is_signed) t.lo = T(-t.hi);
    t.mask = T(ones(f.width));
    t.width = f.width;
    t.low = f.width - f.saturated_bits;
    t.kept = T(ones(t.low));
    const bool by_magnitude = f.overflow == FixedOverflow::wrap_sm;
    t.is_plain_wrap = f.saturated_bits == 0 && !by_magnitude;
    t.by_floor = by_magnitude && f.saturated_bits == 0;
    t.by_sign = by_magnitude && f.saturated_bits == 1;
    t.by_low_sign = by_magnitude && f.saturated_bits > 1;
    t.high_positive = T(t.hi & ~t.kept);
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

// WRAP with saturated bits and WRAP_SM; f is rounded, `floor` is not.
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
    if (t.is_plain_wrap || t.by_floor || t.by_sign)
        u = wrapped<T>(u, t);
    else
        u = (u & t.kept) | ((negative & t.high_negative) | (~negative & t.high_positive));
    return outside ? u : f;
}

// c + p, assigned
template <class T, Round R, Over O> FASTITER_INLINE vec<T> assign(vec<T> c, vec<T> p, const Target<T>& t) {
    constexpr bool looks = R != Round::none && R != Round::product; // at the sum
    vec<T> q = p;
    if constexpr (R == Round::trn_zero)
        q = p >> t.shift;
    else if constexpr (R != Round::none)
        q = add_mod<T>(p, splat(t.add)) >> t.shift;
    vec<T> f;
    if constexpr (sizeof(T) == 2 && O == Over::clamp && !looks)
        f = add_saturated(c, q);
    else
        f = add_mod<T>(c, q);
    if constexpr (looks) {
        // So far ties are rounded down; for TRN_ZERO, so is every value. The compare masks are -1 where one has to be
        // added.
        const vec<T> rest = p & t.rest;
        if constexpr (R == Round::trn_zero)
            f -= sign_mask<T>(f) & (vec<T>)(rest != 0);
        else if constexpr (R == Round::rnd_zero)
            f -= sign_mask<T>(f) & (vec<T>)(rest == t.tie);
        else if constexpr (R == Round::rnd_inf)
            f -= ~sign_mask<T>(f) & (vec<T>)(rest == t.tie);
        else
            f += f & 1 & (vec<T>)(rest == t.tie);
    }
    if constexpr (O == Over::clamp)
        f = smaller<T>(larger<T>(f, splat(t.lo)), splat(t.hi));
    else if constexpr (O == Over::zero)
        f = ((f < t.lo) | (f > t.hi)) ? vec<T>{} : f;
    else if constexpr (O == Over::wrap)
        f = wrapped<T>(f, t);
    else if constexpr (O == Over::other)
        f = other_overflow<T>(f, add_mod<T>(c, p >> t.shift), t);
    return f;
}

} // namespace fastiter::quant::FASTITER_LEVEL
