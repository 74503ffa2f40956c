// Philox4x32-10, vectorised over as many counters as a vector has pairs of 32-bit lanes.
#include "quant/cpu/rounding.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

using Pairs __attribute__((vector_size(kVectorBytes))) = uint64_t;
using UnalignedPairs __attribute__((vector_size(kVectorBytes), aligned(4))) = uint64_t;
constexpr int kPairs = kVectorBytes / 8;
constexpr uint32_t kFirst = 0xD2511F53, kSecond = 0xCD9E8D57, kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

// Products of the low halves
FASTITER_INLINE Pairs product(Pairs a, uint32_t b) {
#if defined(__AVX512F__)
    return (Pairs)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
    return (Pairs)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
    return (Pairs)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#elif defined(__aarch64__)
    return (Pairs)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(b));
#else
    return (a & 0xffffffff) * uint64_t(b);
#endif
}

// Four results per counter, in the low halves; the high halves are arbitrary.
struct Words {
    Pairs c0, c1, c2, c3;
};

FASTITER_INLINE void store_pairs(uint32_t* p, Pairs even, Pairs odd) {
    *reinterpret_cast<UnalignedPairs*>(p) = (even & 0xffffffff) | (odd << 32);
}

// A group of 64 words has 16 counters (low, high, 0, 0). Counters 2 j and 2 j + 1 are adjacent, so that a pair of
// results fills a pair of lanes; a vector of such pairs is a slot. Several slots hide the latency of the dependent
// rounds.
constexpr int kSlots = 8 / kPairs, kAtOnce = kVectorBytes > 16 ? 2 : 1;

// Slots from `slot` on of the groups that begin with `counter`, a multiple of 16: no carry into the high half. As the
// high half is the same for the whole slot, the first two rounds are short: after the first, c0 is high ^ k0, and c1 is
// 0.
template <int N> FASTITER_INLINE void slots(uint64_t counter, int64_t slot, uint32_t k0, uint32_t k1, uint32_t* words) {
    Pairs steps;
    for (int j = 0; j < kPairs; ++j) steps[j] = uint64_t(2 * j);
    Words c[2 * N];
#pragma GCC unroll 4
    for (int k = 0; k < 2 * N; ++k) {
        const int64_t at = slot + k / 2;
        const uint64_t from = counter + uint64_t(at / kSlots * 16 + at % kSlots * 2 * kPairs + k % 2);
        const uint32_t high = uint32_t(from >> 32);
        const Pairs p = product(steps + from, kFirst), c2 = (p >> 32) ^ uint64_t(k1);
        const Pairs second = product(c2, kSecond);
        const uint64_t first = uint64_t(high ^ k0) * kFirst;
        c[k] = {(second >> 32) ^ uint64_t(k0 + kWeyl0), second, p ^ ((first >> 32) ^ uint64_t(k1 + kWeyl1)),
                first - Pairs{}};
    }
    k0 += kWeyl0;
    k1 += kWeyl1;
#pragma GCC unroll 8
    for (int round = 2; round < 10; ++round) {
        k0 += kWeyl0;
        k1 += kWeyl1;
#pragma GCC unroll 4
        for (int k = 0; k < 2 * N; ++k) {
            const Pairs a = product(c[k].c0, kFirst), b = product(c[k].c2, kSecond);
            c[k] = {(b >> 32) ^ c[k].c1 ^ uint64_t(k0), b, (a >> 32) ^ c[k].c3 ^ uint64_t(k1), a};
        }
    }
#pragma GCC unroll 2
    for (int k = 0; k < N; ++k) {
        const Words &even = c[2 * k], &odd = c[2 * k + 1];
        uint32_t* const to = words + (slot + k) / kSlots * 64 + (slot + k) % kSlots * 2 * kPairs;
        store_pairs(to, even.c0, odd.c0);
        store_pairs(to + 16, even.c1, odd.c1);
        store_pairs(to + 32, even.c2, odd.c2);
        store_pairs(to + 48, even.c3, odd.c3);
    }
}

} // namespace

void random_numbers(uint64_t seed, uint64_t first, int64_t n, uint32_t* words) {
    const uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    const int64_t all = ceil_div(n, 64) * kSlots;
    int64_t slot = 0;
    for (; slot + kAtOnce <= all; slot += kAtOnce) slots<kAtOnce>(first / 4, slot, k0, k1, words);
    for (; slot < all; ++slot) slots<1>(first / 4, slot, k0, k1, words);
}

} // namespace fastiter::quant::FASTITER_LEVEL
