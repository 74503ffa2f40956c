// Vectors of the instruction set's width: 16 bytes (baseline), 32 (v3) or 64 (v4). Arithmetic and comparisons are the
// compiler's vector operators; everything else is defined here.
#pragma once
#include "core/cpu/bf16.hpp"
#include <cstddef>
#include <cstdint>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX2__) || defined(__aarch64__)
#define FASTITER_FUSES // fma() rounds once
#endif
#define FASTITER_INLINE inline __attribute__((always_inline))
// For code that several loops call and none depends on for speed: keeps one copy where the compiler would inline one
// per call.
#define FASTITER_NOINLINE __attribute__((noinline))

namespace fastiter::FASTITER_LEVEL {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Defined for number types only: overloads of fma rely on substitution failure for other types.
template <class T, int BYTES = sizeof(T) <= sizeof(double) ? kVectorBytes : 0> struct vector_of {};
template <class T> struct vector_of<T, kVectorBytes> {
    using type __attribute__((vector_size(kVectorBytes))) = accumulate_t<T>;
};
template <class T> using vec = typename vector_of<T>::type;
// An unaligned vector. Not memcpy: with the element type, a store cannot alias a pointer or a size that the loop still
// needs.
template <class T> struct unaligned_vector_of {
    using type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)))) = T;
};
template <class T> using mask = decltype(vec<T>{} < vec<T>{}); // all ones where true
// The bits of each element as unsigned integers, whose sums wrap around: adding up the signed bits of infinities and
// NaN would overflow.
template <class T> struct raw_bits_of;
template <> struct raw_bits_of<float> {
    using type __attribute__((vector_size(sizeof(vec<float>)))) = uint32_t;
};
template <> struct raw_bits_of<double> {
    using type __attribute__((vector_size(sizeof(vec<double>)))) = uint64_t;
};
template <class T> using raw_bits = typename raw_bits_of<T>::type;
template <class T> constexpr int lanes = kVectorBytes / int(sizeof(accumulate_t<T>));

FASTITER_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
FASTITER_INLINE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
FASTITER_INLINE constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
FASTITER_INLINE constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T> FASTITER_INLINE vec<T> broadcast(T x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (vec<T>)_mm512_set1_ps(x);
    else
        return (vec<T>)_mm512_set1_pd(x);
#else
    return x - vec<T>{}; // x - 0 keeps the sign of -0 and every NaN
#endif
}

template <class T> FASTITER_INLINE vec<T> load(const T* p) {
    return *reinterpret_cast<const typename unaligned_vector_of<T>::type*>(p);
}

template <class T> FASTITER_INLINE void store(T* p, vec<T> v) {
    *reinterpret_cast<typename unaligned_vector_of<T>::type*>(p) = v;
}

// Stores 64-byte vectors in two halves of 32 bytes: on AMD's Zen 4 these issue beside multiply-adds, while 64-byte
// stores take the place of some. A pass of the delta rule, three multiply-adds per store, takes 257 ns instead of 300.
template <class T> FASTITER_INLINE void store_by_halves(T* p, vec<T> v) {
#if defined(__AVX512F__)
    const __m512d x = (__m512d)v;
    _mm256_storeu_pd(reinterpret_cast<double*>(p), _mm512_castpd512_pd256(x));
    _mm256_storeu_pd(reinterpret_cast<double*>(p) + 4, _mm512_extractf64x4_pd(x, 1));
#else
    store(p, v);
#endif
}

// Loads the first n lanes (0 <= n <= lanes); the others are 0 and are not read.
template <class T> FASTITER_INLINE vec<T> load_first(const T* p, int n) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (vec<T>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
    else
        return (vec<T>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#else
    vec<T> v{};
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
#endif
}

template <class T> FASTITER_INLINE void store_first(T* p, vec<T> v, int n) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
    else
        _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
#else
    for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// bf16 in memory: the upper half of a float's bits. Loads widen; stores round to nearest, ties to even; NaN stays NaN.
using half_words __attribute__((vector_size(kVectorBytes / 2))) = uint16_t;
using unaligned_half_words __attribute__((vector_size(kVectorBytes / 2), aligned(2))) = uint16_t;
using words __attribute__((vector_size(kVectorBytes))) = uint32_t;

FASTITER_INLINE vec<float> widen(half_words x) {
#if defined(__AVX512F__)
    return (vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16); // GCC widens each half separately
#else
    return (vec<float>)(__builtin_convertvector(x, words) << 16);
#endif
}
FASTITER_INLINE half_words narrow(vec<float> v) {
#if defined(__AVX512BF16__)
    constexpr int kDenormal = 0x20; // the instruction flushes denormals to 0
    if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)v, kDenormal) == 0, 1))
        return __builtin_bit_cast(half_words, _mm512_cvtneps_pbh((__m512)v));
#endif
    const words bits = (words)v;
    const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector((words)(v != v ? (words)((bits >> 16) | 0x40) : rounded), half_words);
}

FASTITER_INLINE vec<float> load(const bf16* p) { return widen(*reinterpret_cast<const unaligned_half_words*>(p)); }
FASTITER_INLINE void store(bf16* p, vec<float> v) { *reinterpret_cast<unaligned_half_words*>(p) = narrow(v); }
FASTITER_INLINE vec<float> load_first(const bf16* p, int n) {
#if defined(__AVX512F__)
    return widen((half_words)_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
#else
    half_words x{};
    for (int i = 0; i < n; ++i) x[i] = p[i].bits;
    return widen(x);
#endif
}
FASTITER_INLINE void store_first(bf16* p, vec<float> v, int n) {
    const half_words x = narrow(v);
#if defined(__AVX512F__)
    _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), (__m256i)x);
#else
    for (int i = 0; i < n; ++i) p[i].bits = x[i];
#endif
}

// float16 in memory: loads widen exactly; stores round to nearest, ties to even, beyond 65504 to infinity.
FASTITER_INLINE vec<float> widen_f16(half_words x) {
#if defined(__AVX512F__)
    return (vec<float>)_mm512_cvtph_ps((__m256i)x);
#elif defined(__AVX2__) && defined(__F16C__)
    return (vec<float>)_mm256_cvtph_ps((__m128i)x);
#elif defined(__aarch64__)
    return (vec<float>)vcvt_f32_f16((float16x4_t)x);
#else
    // The exponent's bias differs by 112: a product with 2^112 corrects it and normalises subnormal numbers.
    const words bits = __builtin_convertvector(x, words), sign = (bits & 0x8000) << 16, rest = (bits & 0x7fff) << 13;
    const words finite = (words)((vec<float>)rest * 0x1p112f), special = rest | 0x7f800000;
    return (vec<float>)(sign | (words)((words)(rest >= 0x0f800000) ? special : finite));
#endif
}

FASTITER_INLINE half_words narrow_f16(vec<float> v) {
#if defined(__AVX512F__)
    return (half_words)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__) && defined(__F16C__)
    return (half_words)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
    return (half_words)vcvt_f16_f32((float32x4_t)v);
#else
    const words bits = (words)v, sign = (bits >> 16) & 0x8000, rest = bits & 0x7fffffff;
    // Subnormal results: adding 0.5 leaves the rounded significand, in units of 2^-24, in the lowest bits.
    const words subnormal = (words)((vec<float>)rest + 0.5f) - 0x3f000000;
    const words normal = (rest - 0x38000000 + 0x0fff + ((rest >> 13) & 1)) >> 13;
    words y = (words)(rest < 0x38800000) ? subnormal : normal;
    y = (words)(rest >= 0x477ff000) ? words{} + 0x7c00 : y; // 65520 and above round to infinity
    y = (words)(rest > 0x7f800000) ? ((rest >> 13) & 0x3ff) | 0x7e00 : y;
    return __builtin_convertvector(y | sign, half_words);
#endif
}

FASTITER_INLINE vec<float> load(const f16* p) { return widen_f16(*reinterpret_cast<const unaligned_half_words*>(p)); }
FASTITER_INLINE void store(f16* p, vec<float> v) { *reinterpret_cast<unaligned_half_words*>(p) = narrow_f16(v); }
FASTITER_INLINE vec<float> load_first(const f16* p, int n) {
#if defined(__AVX512F__)
    return widen_f16((half_words)_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
#else
    half_words x{};
    for (int i = 0; i < n; ++i) x[i] = p[i].bits;
    return widen_f16(x);
#endif
}
FASTITER_INLINE void store_first(f16* p, vec<float> v, int n) {
    const half_words x = narrow_f16(v);
#if defined(__AVX512F__)
    _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), (__m256i)x);
#else
    for (int i = 0; i < n; ++i) p[i].bits = x[i];
#endif
}

template <class T> FASTITER_INLINE vec<T> load_up_to(const T* p, int64_t n) {
    return n >= lanes<T> ? load(p) : load_first(p, int(n));
}

template <class T> FASTITER_INLINE void store_up_to(T* p, vec<T> v, int64_t n) {
    if (n >= lanes<T>)
        store(p, v);
    else
        store_first(p, v, int(n));
}

// Streaming version of store_up_to, for results that exceed the caches: whole 64-byte cache lines are written without
// being read first. stream_fence() must precede reads by other threads.
template <class T> FASTITER_INLINE void stream_up_to(T* p, vec<T> v, int64_t n) {
#if defined(__AVX512F__)
    constexpr int kBytes = lanes<T> * int(sizeof(T));
    if (n >= lanes<T> && (reinterpret_cast<uintptr_t>(p) & (kBytes - 1)) == 0) {
        if constexpr (sizeof(T) == 2)
            return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)narrow(v));
        else if constexpr (sizeof(T) == 4)
            return _mm512_stream_ps(p, (__m512)v);
        else
            return _mm512_stream_pd(p, (__m512d)v);
    }
#endif
    store_up_to(p, v, n);
}

// Results larger than this, in bytes, are evicted before they are read again, and are written with streaming stores.
constexpr int64_t kCached = 12 << 20;

template <class T> FASTITER_INLINE void put_up_to(T* p, vec<T> v, int64_t n, bool past_caches) {
    if (past_caches)
        stream_up_to(p, v, n);
    else
        store_up_to(p, v, n);
}

// Prefetches `count` elements into the cache of level LEVEL; any address is allowed, even if it is never accessed.
template <int LEVEL = 1, class T> FASTITER_INLINE void prefetch(const T* p, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(p + i, 0, 4 - LEVEL);
}

FASTITER_INLINE void stream_fence() {
#if defined(__AVX512F__)
    _mm_sfence();
#endif
}

// a * b + c, rounded once if the instruction set has fused multiply-add, as all have but the baseline of x86
FASTITER_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
#if defined(__AVX512F__)
    return (vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

FASTITER_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
#if defined(__AVX512F__)
    return (vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
    return (vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    return (vec<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

template <class T> FASTITER_INLINE vec<T> fma(vec<T> a, T b, vec<T> c) { return fma(a, broadcast(b), c); }
template <class T> FASTITER_INLINE vec<T> fma(vec<T> a, T b, T c) { return fma(a, broadcast(b), broadcast(c)); }

// Complex numbers are pairs of lanes, the real part first.
namespace pairs {
template <class V, size_t... I> FASTITER_INLINE V real_twice(V v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, int(I & ~size_t(1))...);
}
template <class V, size_t... I> FASTITER_INLINE V imaginary_twice(V v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, int(I | 1)...);
}
template <class V, size_t... I> FASTITER_INLINE V swapped(V v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, int(I ^ 1)...);
}
template <class T, size_t... I> FASTITER_INLINE vec<T> signs(size_t negative, std::index_sequence<I...>) {
    return vec<T>{((I & 1) == negative ? T(-0.0) : T(0))...};
}
} // namespace pairs

// a b, or conj(a) b; every product and every sum is rounded
template <class T, bool Conjugate> FASTITER_INLINE vec<T> complex_product(vec<T> a, vec<T> b) {
    constexpr auto all = std::make_index_sequence<lanes<T>>();
    const vec<T> crossed = pairs::imaginary_twice(a, all) * pairs::swapped(b, all);
    const vec<T> signs = pairs::signs<T>(Conjugate ? 1 : 0, all);
    return pairs::real_twice(a, all) * b + (vec<T>)((mask<T>)crossed ^ (mask<T>)signs);
}

// Comparisons with NaN are false, so that select(x < lo, lo, x) propagates a NaN in x.
template <class T> FASTITER_INLINE vec<T> select(mask<T> m, vec<T> yes, vec<T> no) { return m ? yes : no; }
#if defined(__AVX512F__)
// One instruction instead of two; it returns its second operand if either is NaN.
FASTITER_INLINE vec<float> max_keeping_nan(vec<float> lo, vec<float> x) {
    return (vec<float>)_mm512_max_ps((__m512)lo, (__m512)x);
}
FASTITER_INLINE vec<double> max_keeping_nan(vec<double> lo, vec<double> x) {
    return (vec<double>)_mm512_max_pd((__m512d)lo, (__m512d)x);
}
FASTITER_INLINE vec<float> min_keeping_nan(vec<float> hi, vec<float> x) {
    return (vec<float>)_mm512_min_ps((__m512)hi, (__m512)x);
}
FASTITER_INLINE vec<double> min_keeping_nan(vec<double> hi, vec<double> x) {
    return (vec<double>)_mm512_min_pd((__m512d)hi, (__m512d)x);
}
#else
template <class V> FASTITER_INLINE V max_keeping_nan(V lo, V x) { return x < lo ? lo : x; }
template <class V> FASTITER_INLINE V min_keeping_nan(V hi, V x) { return x > hi ? hi : x; }
#endif
template <class T> FASTITER_INLINE vec<T> at_least(vec<T> x, T lo) { return max_keeping_nan(broadcast(lo), x); }
template <class T> FASTITER_INLINE vec<T> at_most(vec<T> x, T hi) { return min_keeping_nan(broadcast(hi), x); }

// Whether a comparison is true in any lane
template <class T> FASTITER_INLINE bool any(mask<T> m) {
#if defined(__AVX512F__)
    return _mm512_test_epi64_mask((__m512i)m, (__m512i)m) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#else
    using words __attribute__((vector_size(16))) = int64_t;
    return (((words)m)[0] | ((words)m)[1]) != 0;
#endif
}

// Only the sign bit, in every lane
template <class T> FASTITER_INLINE mask<T> sign_bit() { return (mask<T>)broadcast(T(-0.0)); }
// -|x|
template <class T> FASTITER_INLINE vec<T> minus_magnitude(vec<T> x) { return (vec<T>)((mask<T>)x | sign_bit<T>()); }
template <class T> FASTITER_INLINE vec<T> magnitude(vec<T> x) { return (vec<T>)((mask<T>)x & ~sign_bit<T>()); }
template <class T> FASTITER_INLINE vec<T> copy_sign(vec<T> x, vec<T> sign) {
    return (vec<T>)(((mask<T>)x & ~sign_bit<T>()) | ((mask<T>)sign & sign_bit<T>()));
}

} // namespace fastiter::FASTITER_LEVEL
