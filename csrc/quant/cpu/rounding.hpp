// Rounding of vectors to integers in all modes, and the random numbers of stochastic rounding.
#pragma once
#include "core/cpu/simd.hpp"
#include "quant/cpu/kernels.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

// The random words of lanes<T> elements
template <class T> struct random_words_of {
    using type __attribute__((vector_size(lanes<T> * 4))) = uint32_t;
    using unaligned __attribute__((vector_size(lanes<T> * 4), aligned(4))) = uint32_t;
    using as_signed __attribute__((vector_size(lanes<T> * 4))) = int32_t;
};
template <class T> using random_words = typename random_words_of<T>::type;
template <class T> FASTITER_INLINE random_words<T> load_random(const uint32_t* p) {
    return *reinterpret_cast<const typename random_words_of<T>::unaligned*>(p);
}
constexpr int kRandomBits = 31; // the high bits of a word: they fit a signed integer

template <class T> FASTITER_INLINE vec<T> magnitude_of(vec<T> x) { return (vec<T>)((mask<T>)x & ~sign_bit<T>()); }

// Rounds v to an integer: to nearest (ties to even), down, up, or toward zero. The direction is encoded in the
// instruction, independent of the processor's rounding mode.
constexpr int kEven = 0, kDown = 1, kUp = 2, kZero = 3;

template <class T, int Direction> FASTITER_INLINE vec<T> nearby(vec<T> v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (vec<T>)_mm512_roundscale_ps((__m512)v, Direction | 8);
    else
        return (vec<T>)_mm512_roundscale_pd((__m512d)v, Direction | 8);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4)
        return (vec<T>)_mm256_round_ps((__m256)v, Direction | 8);
    else
        return (vec<T>)_mm256_round_pd((__m256d)v, Direction | 8);
#elif defined(__aarch64__)
    if constexpr (sizeof(T) == 4) {
        const float32x4_t x = (float32x4_t)v;
        return (vec<T>)(Direction == kEven   ? vrndnq_f32(x)
                        : Direction == kDown ? vrndmq_f32(x)
                        : Direction == kUp   ? vrndpq_f32(x)
                                             : vrndq_f32(x));
    } else {
        const float64x2_t x = (float64x2_t)v;
        return (vec<T>)(Direction == kEven   ? vrndnq_f64(x)
                        : Direction == kDown ? vrndmq_f64(x)
                        : Direction == kUp   ? vrndpq_f64(x)
                                             : vrndq_f64(x));
    }
#else
    // Adding 2^mantissa removes the fraction. Numbers that large, and NaN, have none.
    const vec<T> limit = broadcast(sizeof(T) == 4 ? T(8388608.0) : T(4503599627370496.0));
    const vec<T> a = magnitude_of<T>(v), nearest = (a + limit) - limit, one = broadcast(T(1)), zero{};
    vec<T> r = copy_sign<T>(nearest, v);
    if constexpr (Direction == kDown) r -= r > v ? one : zero;
    if constexpr (Direction == kUp) r = copy_sign<T>(r + (r < v ? one : zero), v); // -0.5 becomes -0
    if constexpr (Direction == kZero) r = copy_sign<T>(nearest - (nearest > a ? one : zero), v);
    return a < limit ? r : v;
#endif
}

template <class T> FASTITER_INLINE vec<T> one_where(mask<T> m) { return (vec<T>)(m & (mask<T>)broadcast(T(1))); }
template <class T> FASTITER_INLINE vec<T> signed_one_where(mask<T> m, vec<T> sign) {
    return (vec<T>)(m & ((mask<T>)broadcast(T(1)) | ((mask<T>)sign & sign_bit<T>())));
}

// Mask of lanes where the fraction f in [0, 1) plus the random number carries: probability f, truncated to 31 bits
template <class T> FASTITER_INLINE mask<T> carries(vec<T> f, random_words<T> random) {
    using Signed = typename random_words_of<T>::as_signed;
    const Signed r = (Signed)(random >> 1);
    const vec<T> scaled = f * T(2147483648.0);
    if constexpr (sizeof(T) == 4) // 31 bits plus 31 bits: the carry is the sign
        return (mask<T>)((Signed)(random_words<T>(__builtin_convertvector(scaled, Signed)) + random_words<T>(r)) < 0);
    else
        return scaled >= T(2147483648.0) - __builtin_convertvector(r, vec<double>);
}

// v rounded to an integer. v + 0.5 would be rounded itself, so fractions are compared, which are exact where it
// matters.
template <class T, Rounding R> FASTITER_INLINE vec<T> whole(vec<T> v, random_words<T> random) {
    const T half = T(0.5);
    if constexpr (R == Rounding::down) return nearby<T, kDown>(v);
    if constexpr (R == Rounding::up) return nearby<T, kUp>(v);
    if constexpr (R == Rounding::zero) return nearby<T, kZero>(v);
    if constexpr (R == Rounding::even) return nearby<T, kEven>(v);
    if constexpr (R == Rounding::half_up) {
        const vec<T> below = nearby<T, kDown>(v);
        return below + one_where<T>(v - below >= half);
    }
    if constexpr (R == Rounding::half_down) {
        const vec<T> above = nearby<T, kUp>(v);
        return above - one_where<T>(above - v >= half);
    }
    const vec<T> t = nearby<T, kZero>(v);
    if constexpr (R == Rounding::half_away) return t + signed_one_where<T>(magnitude_of<T>(v - t) >= half, v);
    if constexpr (R == Rounding::half_zero) return t + signed_one_where<T>(magnitude_of<T>(v - t) > half, v);
    if constexpr (R == Rounding::away) return t + signed_one_where<T>(t != v, v);
    return t + signed_one_where<T>(carries<T>(magnitude_of<T>(v - t), random), v); // stochastic
}

// v modulo `size`, in [0, size); exact. Numbers too large to have low bits, including infinity, give 0.
template <class T> struct Modulus {
    vec<T> size, inverse;
    explicit Modulus(double n) : size(broadcast(T(n))), inverse(broadcast(T(1 / n))) {}
};

template <class T, int Direction> FASTITER_INLINE vec<T> rest_of_turn(vec<T> v, const Modulus<T>& m) {
    const vec<T> t = v * m.inverse;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (vec<T>)_mm512_reduce_ps((__m512)t, Direction | 8);
    else
        return (vec<T>)_mm512_reduce_pd((__m512d)t, Direction | 8);
#else
    const T bound = T(sizeof(T) == 4 ? 0x1p30 : 0x1p60);
    const vec<T> u = at_most<T>(at_least<T>(t, -bound), bound);
    return u - nearby<T, Direction>(u);
#endif
}

template <class T> FASTITER_INLINE vec<T> modulo(vec<T> v, const Modulus<T>& m) {
    return rest_of_turn<T, kDown>(v, m) * m.size;
}
// The same in [-size / 2, size / 2)
template <class T> FASTITER_INLINE vec<T> signed_modulo(vec<T> v, const Modulus<T>& m) {
    const vec<T> t = rest_of_turn<T, kEven>(v, m);
    return select<T>(t == T(0.5), broadcast(T(-0.5)), t) * m.size;
}

// x times a power of two. Scaling down could underflow for numbers far below 1; those are returned unscaled, as any
// result far below 1 will do.
template <class T> FASTITER_INLINE vec<T> times_power(vec<T> x, vec<T> power, bool down) {
    const vec<T> v = x * power;
    if (!down) return v;
    return magnitude_of<T>(x) < T(sizeof(T) == 4 ? 0x1p-32 : 0x1p-64) ? x : v;
}

// Whether a lane is below `low` or above `high`; NaN is neither.
template <class T> FASTITER_INLINE bool any_outside(vec<T> v, vec<T> low, vec<T> high) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (_mm512_cmp_ps_mask((__m512)v, (__m512)low, _CMP_LT_OQ) |
                _mm512_cmp_ps_mask((__m512)v, (__m512)high, _CMP_GT_OQ)) != 0;
    else
        return (_mm512_cmp_pd_mask((__m512d)v, (__m512d)low, _CMP_LT_OQ) |
                _mm512_cmp_pd_mask((__m512d)v, (__m512d)high, _CMP_GT_OQ)) != 0;
#else
    return any<T>((v < low) | (v > high));
#endif
}

// Counts the true elements of masks, per lane until total().
template <class T> struct Count {
    mask<T> lanes_{};
    FASTITER_INLINE void add(mask<T> m) { lanes_ -= m; }
    FASTITER_INLINE int64_t total() const {
        int64_t sum = 0;
        for (int i = 0; i < lanes<T>; ++i) sum += lanes_[i];
        return sum;
    }
};

// Detects NaN with one comparison for two vectors.
template <class T> struct NanFlag {
#if defined(__AVX512F__)
    uint32_t any_nan = 0;
    FASTITER_INLINE void add(vec<T> a, vec<T> b) {
        if constexpr (sizeof(T) == 4)
            any_nan |= _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
        else
            any_nan |= _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_UNORD_Q);
    }
    FASTITER_INLINE bool any() const { return any_nan != 0; }
#else
    mask<T> any_nan{};
    FASTITER_INLINE void add(vec<T> a, vec<T> b) { any_nan |= (a != a) | (b != b); }
    FASTITER_INLINE bool any() const {
        bool some = false;
        for (int i = 0; i < lanes<T>; ++i) some |= any_nan[i] != 0;
        return some;
    }
#endif
};

// Random words of n elements (rounded up to whole groups of 64) from element `first`, a multiple of 64, on, from
// Philox4x32-10 (Salmon et al. 2011). Element 16 w + i of a group is word w of counter first / 4 + i, the same on all
// machines.
void random_numbers(uint64_t seed, uint64_t first, int64_t n, uint32_t* words);

} // namespace fastiter::quant::FASTITER_LEVEL
