// Philox4x32-10, as many counters side by side as the vectors have pairs of lanes.
#include "round.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastiter::FASTITER_LEVEL {
namespace {

typedef uint64_t Pairs __attribute__((vector_size(kVectorBytes)));
typedef uint64_t UnalignedPairs __attribute__((vector_size(kVectorBytes), aligned(4)));
constexpr int kPairs = kVectorBytes / 8;
constexpr uint32_t kFirst = 0xD2511F53, kSecond = 0xCD9E8D57, kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

// The products of the low halves
FASTITER_INLINE Pairs product(Pairs a, uint32_t b) {
#if defined(__AVX512F__)
    return (Pairs)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
    return (Pairs)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
    return (Pairs)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
    return (a & 0xffffffff) * uint64_t(b);
#endif
}

// Words are low halves; what the high halves hold does not matter.
struct Words {
    Pairs c0, c1, c2, c3;
};

// Of the counters (low, high, 0, 0). As `high` is the same for all, the first two rounds have little to do: after the first,
// c0 is high ^ k0, and c1 is 0.
FASTITER_INLINE Words words_of(Pairs low, uint32_t high, uint32_t k0, uint32_t k1) {
    const Pairs p = product(low, kFirst), c2 = (p >> 32) ^ uint64_t(k1), zero{};
    const uint64_t first = uint64_t(high ^ k0) * kFirst;
    k0 += kWeyl0, k1 += kWeyl1;
    const Pairs second = product(c2, kSecond);
    Words c = {(second >> 32) ^ uint64_t(k0), second, p ^ ((first >> 32) ^ uint64_t(k1)), zero + first};
#pragma GCC unroll 8
    for (int round = 2; round < 10; ++round) {
        k0 += kWeyl0, k1 += kWeyl1;
        const Pairs a = product(c.c0, kFirst), b = product(c.c2, kSecond);
        c = {(b >> 32) ^ c.c1 ^ uint64_t(k0), b, (a >> 32) ^ c.c3 ^ uint64_t(k1), a};
    }
    return c;
}

FASTITER_INLINE void store_pairs(uint32_t* p, Pairs even, Pairs odd) {
    *reinterpret_cast<UnalignedPairs*>(p) = (even & 0xffffffff) | (odd << 32);
}

// Counters 2 j and 2 j + 1 are beside each other, so that a pair of results makes a pair of lanes. `counter` is a multiple
// of 16: no carry into the high half.
FASTITER_INLINE void group(uint64_t counter, uint32_t k0, uint32_t k1, uint32_t* words) {
    const uint32_t high = uint32_t(counter >> 32);
    Pairs steps;
    for (int j = 0; j < kPairs; ++j) steps[j] = uint64_t(2 * j);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 2 * kPairs) {
        const Pairs first = steps + (counter + uint64_t(i));
        const Words even = words_of(first, high, k0, k1), odd = words_of(first + 1, high, k0, k1);
        store_pairs(words + i, even.c0, odd.c0);
        store_pairs(words + 16 + i, even.c1, odd.c1);
        store_pairs(words + 32 + i, even.c2, odd.c2);
        store_pairs(words + 48 + i, even.c3, odd.c3);
    }
}

} // namespace

void random_numbers(uint64_t seed, uint64_t first, int64_t n, uint32_t* words) {
    for (int64_t i = 0; i < n; i += 64)
        group((first + uint64_t(i)) / 4, uint32_t(seed), uint32_t(seed >> 32), words + i);
}

} // namespace fastiter::FASTITER_LEVEL
