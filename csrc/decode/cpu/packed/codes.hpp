// Bytes and codes of 4 bits as vectors of floats.
#pragma once
#include "core/cpu/simd_int.hpp"

FASTITER_FAMILY(decode)

namespace fastiter::decode::FASTITER_LEVEL {

// A byte per lane, with its sign
FASTITER_INLINE vec<int32_t> widen_bytes(const uint8_t* bytes) {
#if defined(__AVX512F__)
    return (vec<int32_t>)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
#elif defined(__AVX2__)
    return (vec<int32_t>)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
#elif defined(__aarch64__)
    uint32_t four;
    __builtin_memcpy(&four, bytes, sizeof four);
    return (vec<int32_t>)vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)))));
#else
    const auto* x = reinterpret_cast<const int8_t*>(bytes);
    return vec<int32_t>{x[0], x[1], x[2], x[3]};
#endif
}

// Integers of few bits
FASTITER_INLINE vec<float> to_float(vec<int32_t> x) { return __builtin_convertvector(x, vec<float>); }

constexpr float kE4m3Factor = 0x1p8f;

// Bytes in e4m3, divided by kE4m3Factor. In float16 they are the bits of a number with the same fraction whose
// exponent has another bias; also the subnormal ones, which the conversion handles fast, but float arithmetic on some
// machines does not.
FASTITER_INLINE vec<float> e4m3(const uint8_t* bytes) {
#if defined(__AVX512F__)
    const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    return widen_f16((half_words)_mm256_and_si256(_mm256_slli_epi16(x, 7), _mm256_set1_epi16(short(0xbf80))));
#elif defined(__AVX2__)
    const __m128i x = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
    return widen_f16((half_words)_mm_and_si128(_mm_slli_epi16(x, 7), _mm_set1_epi16(short(0xbf80))));
#else
    const vec<int32_t> x = widen_bytes(bytes);
    const vec<float> magnitude = (vec<float>)((x & 0x7f) << 20) * (0x1p120f / kE4m3Factor);
    return copy_sign<float>(magnitude, (vec<float>)x);
#endif
}

FASTITER_INLINE words load_words(const uint32_t* p) {
    return *reinterpret_cast<const typename unaligned_vector_of<uint32_t>::type*>(p);
}

// A line has 8 codes of 4 bits in a word per output, the first input's in the lowest bits.
struct Nibbles {
    static constexpr int kInputs = 8, kLineBytes = 4 * kTile;
    using Line = words;
    static FASTITER_INLINE words load(const uint8_t* codes, int part) {
        return load_words(reinterpret_cast<const uint32_t*>(codes) + part * lanes<float>);
    }
};

// The numbers of the codes of 4 bits
alignas(64) constexpr float kInt4Values[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}; // code - 8
alignas(64) constexpr float kE2m1Values[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
alignas(64) constexpr float kNf4Values[16] = {
    -1.0f,      -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f, 0.1609302f,  0.24611230f,  0.33791524f, 0.44070983f,  0.5626170f,   0.72295684f,   1.0f};

// values[code j of each word]
FASTITER_INLINE vec<float> look_up(const float (&values)[16], words codes, int j) {
#if defined(__AVX512F__)
    return (vec<float>)_mm512_permutexvar_ps((__m512i)(codes >> 4 * j), (__m512)load(values));
#elif defined(__AVX2__)
    const __m256i index = (__m256i)(codes >> 4 * j);
    const __m256 low = _mm256_permutevar8x32_ps((__m256)load(values), index);
    const __m256 high = _mm256_permutevar8x32_ps((__m256)load(values + 8), index);
    return (vec<float>)_mm256_blendv_ps(low, high, (__m256)(codes << (28 - 4 * j)));
#elif defined(__aarch64__)
    const words first_byte = (codes >> 4 * j & 15) << 2, bytes = first_byte * 0x01010101 + 0x03020100;
    const auto* table = reinterpret_cast<const uint8_t*>(values);
    return (vec<float>)vqtbl4q_u8(vld1q_u8_x4(table), (uint8x16_t)bytes);
#else
    vec<float> found;
    for (int i = 0; i < lanes<float>; ++i) found[i] = values[codes[i] >> 4 * j & 15];
    return found;
#endif
}

// Code j of each word - 8. Without a lookup of 16 floats in one instruction, the code becomes the lowest bits of the
// mantissa of a power of two, which is then subtracted.
FASTITER_INLINE vec<float> int4(words codes, int j) {
#if defined(__AVX512F__)
    return look_up(kInt4Values, codes, j);
#else
    const int place = j < 4 ? 0 : 16, exponent = 23 - place;
    const words sum = (codes >> 4 * (j % 4) & 15u << place) | uint32_t(127 + exponent) << 23;
    return (vec<float>)sum - float((1 << exponent) + 8);
#endif
}

} // namespace fastiter::decode::FASTITER_LEVEL
