// Integer vector operations beyond the compiler's operators: wrapping sums and products, and 16-bit instructions.
#pragma once
#include "core/cpu/simd.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastiter::FASTITER_LEVEL {

template <class T> struct unsigned_of;
template <> struct unsigned_of<int16_t> {
    using type = uint16_t;
};
template <> struct unsigned_of<int32_t> {
    using type = uint32_t;
};
template <> struct unsigned_of<int64_t> {
    using type = uint64_t;
};
template <class T> using unsigned_type = typename unsigned_of<T>::type;

// Modulo 2^bits, as overflow of signed integers is undefined in C++.
template <class T> FASTITER_INLINE vec<T> add_mod(vec<T> a, vec<T> b) {
    return (vec<T>)((vec<unsigned_type<T>>)a + (vec<unsigned_type<T>>)b);
}
template <class T> FASTITER_INLINE vec<T> sub_mod(vec<T> a, vec<T> b) {
    return (vec<T>)((vec<unsigned_type<T>>)a - (vec<unsigned_type<T>>)b);
}
template <class T> FASTITER_INLINE vec<T> mul_mod(vec<T> a, vec<T> b) {
    return (vec<T>)((vec<unsigned_type<T>>)a * (vec<unsigned_type<T>>)b);
}
template <class T> FASTITER_INLINE vec<T> shift_left(vec<T> a, int n) {
    return (vec<T>)((vec<unsigned_type<T>>)a << n);
}

template <class T> FASTITER_INLINE vec<T> splat(T x) { return vec<T>{} + x; }
template <class T> FASTITER_INLINE vec<T> larger(vec<T> a, vec<T> b) { return a > b ? a : b; }
template <class T> FASTITER_INLINE vec<T> smaller(vec<T> a, vec<T> b) { return a < b ? a : b; }
// -1 where negative, else 0
template <class T> FASTITER_INLINE vec<T> sign_mask(vec<T> a) { return a >> int(8 * sizeof(T) - 1); }

// ---- vectors of 16-bit integers -------------------------------------------------------------------------------------

using vec16 = vec<int16_t>;
using vec32 = vec<int32_t>;

#if defined(__aarch64__)
// The products of the first and of the last four lanes
FASTITER_INLINE int32x4_t products_low(vec16 a, vec16 b) {
    return vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
}
FASTITER_INLINE int32x4_t products_high(vec16 a, vec16 b) { return vmull_high_s16((int16x8_t)a, (int16x8_t)b); }
#elif !defined(__SSE2__)
// Double-width integers, for instruction sets without the intrinsics below
using wide16 __attribute__((vector_size(2 * kVectorBytes))) = int32_t;
FASTITER_INLINE wide16 widened(vec16 a) { return __builtin_convertvector(a, wide16); }
FASTITER_INLINE vec16 narrowed(wide16 a) { return __builtin_convertvector(a, vec16); }
#endif

// floor(a b / 2^16)
FASTITER_INLINE vec16 mul_high(vec16 a, vec16 b) {
#if defined(__AVX512F__)
    return (vec16)_mm512_mulhi_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vec16)_mm256_mulhi_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vec16)_mm_mulhi_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
    return (vec16)vuzp2q_s16((int16x8_t)products_low(a, b), (int16x8_t)products_high(a, b));
#else
    return narrowed(widened(a) * widened(b) >> 16);
#endif
}

// (a b + 2^14) >> 15: the nearest integer to a b / 2^15, ties up; -2^15 for a = b = -2^15, as sums that wrap need it
FASTITER_INLINE vec16 mul_rounded(vec16 a, vec16 b) {
#if defined(__AVX512F__)
    return (vec16)_mm512_mulhrs_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vec16)_mm256_mulhrs_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    const vec<uint16_t> low = (vec<uint16_t>)mul_mod<int16_t>(a, b), high = (vec<uint16_t>)mul_high(a, b);
    return (vec16)((high + high + (low >> 15)) + ((low >> 14) & 1));
#elif defined(__aarch64__)
    // vqrdmulh would saturate.
    return (vec16)vrshrn_high_n_s32(vrshrn_n_s32(products_low(a, b), 15), products_high(a, b), 15);
#else
    return narrowed((widened(a) * widened(b) + (1 << 14)) >> 15);
#endif
}

// a + b, saturated to 16 bits
FASTITER_INLINE vec16 add_saturated(vec16 a, vec16 b) {
#if defined(__AVX512F__)
    return (vec16)_mm512_adds_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vec16)_mm256_adds_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vec16)_mm_adds_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
    return (vec16)vqaddq_s16((int16x8_t)a, (int16x8_t)b);
#else
    const wide16 sum = widened(a) + widened(b), low = sum < -32768 ? wide16{} - 32768 : sum;
    return narrowed(low > 32767 ? wide16{} + 32767 : low);
#endif
}

// a[2i] b[2i] + a[2i+1] b[2i+1], modulo 2^32
FASTITER_INLINE vec32 mul_pairs(vec32 a, vec32 b) {
#if defined(__AVX512F__)
    return (vec32)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vec32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vec32)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
    return (vec32)vpaddq_s32(products_low((vec16)a, (vec16)b), products_high((vec16)a, (vec16)b));
#else
    const vec32 low = mul_mod<int32_t>(shift_left<int32_t>(a, 16) >> 16, shift_left<int32_t>(b, 16) >> 16);
    return add_mod<int32_t>(low, mul_mod<int32_t>(a >> 16, b >> 16));
#endif
}

} // namespace fastiter::FASTITER_LEVEL
