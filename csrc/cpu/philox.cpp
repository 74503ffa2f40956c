// Philox4x32-10, as many counters side by side as the vectors have pairs of lanes.
#include "round.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastiter::FASTITER_LEVEL {
namespace {

typedef uint64_t Pairs __attribute__((vector_size(kVectorBytes)));
constexpr int kPairs = kVectorBytes / 8;

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

FASTITER_INLINE Words rounds(Words c, uint32_t k0, uint32_t k1) {
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
        const Pairs first = product(c.c0, 0xD2511F53), second = product(c.c2, 0xCD9E8D57);
        c = {(second >> 32) ^ c.c1 ^ uint64_t(k0), second, (first >> 32) ^ c.c3 ^ uint64_t(k1), first};
        k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
    return c;
}

FASTITER_INLINE void store_pairs(uint32_t* p, Pairs even, Pairs odd) {
    *reinterpret_cast<Pairs*>(p) = (even & 0xffffffff) | (odd << 32);
}

// Counters 2 j and 2 j + 1 are beside each other, so that a pair of results makes a pair of lanes.
FASTITER_INLINE void group(uint64_t counter, uint32_t k0, uint32_t k1, uint32_t* words) {
    Pairs steps;
    for (int j = 0; j < kPairs; ++j) steps[j] = uint64_t(2 * j);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 2 * kPairs) {
        const Pairs first = steps + (counter + uint64_t(i)), high = first >> 32, zero{};
        const Words even = rounds({first, high, zero, zero}, k0, k1);
        const Words odd = rounds({first + 1, high, zero, zero}, k0, k1); // the first is even: no carry into its high half
        store_pairs(words + i, even.c0, odd.c0);
        store_pairs(words + 16 + i, even.c1, odd.c1);
        store_pairs(words + 32 + i, even.c2, odd.c2);
        store_pairs(words + 48 + i, even.c3, odd.c3);
    }
}

} // namespace

void random_numbers(uint64_t seed, uint64_t first, int64_t n, uint32_t* words) {
    for (int64_t i = 0; i < n; i += 64) group((first + uint64_t(i)) / 4, uint32_t(seed), uint32_t(seed >> 32), words + i);
}

} // namespace fastiter::FASTITER_LEVEL
