// Sums of the products of vectors of up to kChunk numbers: in vectors of T over blocks of 512 numbers, then in double.
#pragma once
#include "core/cpu/simd.hpp"
#include "fixedpoint/cpu/kernels.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

// Lane i becomes lane i ^ Distance.
template <size_t Distance, class V, size_t... I> FASTITER_INLINE V exchanged(V v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, int(I ^ Distance)...);
}

// The sum of all lanes, by halves
template <class T, size_t Distance = size_t(lanes<T>) / 2> FASTITER_INLINE T sum_of(vec<T> v) {
    if constexpr (Distance == 0)
        return v[0];
    else
        return sum_of<T, Distance / 2>(v + exchanged<Distance>(v, std::make_index_sequence<size_t(lanes<T>)>()));
}

constexpr int64_t kSummed = 512; // numbers that are added up in T

struct Pair {
    double first = 0, second = 0;
};

// a.b and a.c
template <class T> FASTITER_INLINE Pair products(const T* a, const T* b, const T* c, int64_t n) {
    constexpr int W = lanes<T>, V = 4;
    Pair total;
    for (int64_t from = 0; from < n; from += kSummed) {
        const int64_t end = min_of(n, from + kSummed);
        vec<T> ab[V] = {}, ac[V] = {};
        int64_t j = from;
        for (; j + V * W <= end; j += V * W)
#pragma GCC unroll 4
            for (int k = 0; k < V; ++k) {
                const vec<T> v = load(a + j + k * W);
                ab[k] = fma(v, load(b + j + k * W), ab[k]);
                ac[k] = fma(v, load(c + j + k * W), ac[k]);
            }
        for (; j < end; j += W) {
            const vec<T> v = load_up_to(a + j, end - j);
            ab[0] = fma(v, load_up_to(b + j, end - j), ab[0]);
            ac[0] = fma(v, load_up_to(c + j, end - j), ac[0]);
        }
        total.first += double(sum_of<T>((ab[0] + ab[1]) + (ab[2] + ab[3])));
        total.second += double(sum_of<T>((ac[0] + ac[1]) + (ac[2] + ac[3])));
    }
    return total;
}

// a.b
template <class T> FASTITER_INLINE double product(const T* a, const T* b, int64_t n) {
    constexpr int W = lanes<T>;
    double total = 0;
    for (int64_t from = 0; from < n; from += kSummed) {
        const int64_t end = min_of(n, from + kSummed);
        vec<T> sum[2] = {};
        int64_t j = from;
        for (; j + 2 * W <= end; j += 2 * W)
#pragma GCC unroll 2
            for (int k = 0; k < 2; ++k) sum[k] = fma(load(a + j + k * W), load(b + j + k * W), sum[k]);
        for (; j < end; j += W) sum[0] = fma(load_up_to(a + j, end - j), load_up_to(b + j, end - j), sum[0]);
        total += double(sum_of<T>(sum[0] + sum[1]));
    }
    return total;
}

// The rows and chunks of one thread: calls f(row, chunk, first, numbers).
template <class F> FASTITER_INLINE void each_chunk(int64_t rows, int64_t n, const Team& team, F f) {
    const int64_t chunks = chunks_of(n), items = rows * chunks;
    const int64_t begin = items * team.id / team.size, end = items * (team.id + 1) / team.size;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t row = item / chunks, chunk = item % chunks, first = chunk * kChunk;
        f(row, chunk, first, min_of(n - first, kChunk));
    }
}

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
