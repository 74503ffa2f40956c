// Inner products of vectors of up to kChunk numbers: summed in vectors of T over blocks of 512 numbers, then in double.
#pragma once
#include "core/cpu/simd.hpp"
#include "fixedpoint/cpu/kernels.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

// Lane i becomes lane i ^ Distance.
template <size_t Distance, class V, size_t... I> FASTITER_INLINE V exchanged(V v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, int(I ^ Distance)...);
}

// The sum of all lanes, by repeated halving
template <class T, size_t Distance = size_t(lanes<T>) / 2> FASTITER_INLINE T sum_of(vec<T> v) {
    if constexpr (Distance == 0)
        return v[0];
    else
        return sum_of<T, Distance / 2>(v + exchanged<Distance>(v, std::make_index_sequence<size_t(lanes<T>)>()));
}

// Loads the first n numbers of a history as type T, and stores them.
template <class T, class H> FASTITER_INLINE vec<T> widened(const H* p, int64_t n) {
    if constexpr (sizeof(T) == 8 && sizeof(H) == 4) {
        using narrow_vector __attribute__((vector_size(kVectorBytes / 2), aligned(sizeof(H)))) = H;
        if (n >= lanes<T>) return __builtin_convertvector(*reinterpret_cast<const narrow_vector*>(p), vec<T>);
        vec<T> v{};
        for (int64_t i = 0; i < n; ++i) v[i] = T(p[i]);
        return v;
    } else {
        return load_up_to(p, n);
    }
}
template <class T, class H> FASTITER_INLINE void put(H* p, vec<T> v, int64_t n) {
    if constexpr (sizeof(T) == 8 && sizeof(H) == 4)
        for (int64_t i = 0; i < min_of(n, lanes<T>); ++i) p[i] = H(v[i]);
    else
        store_up_to(p, v, n);
}

constexpr int64_t kSummed = 512; // numbers that are summed in T

struct Pair {
    double first = 0, second = 0;
};

// a.b and a.c
template <class T, class H> FASTITER_INLINE Pair products(const H* a, const T* b, const T* c, int64_t n) {
    constexpr int W = lanes<T>, V = 4;
    Pair total;
    for (int64_t from = 0; from < n; from += kSummed) {
        const int64_t end = min_of(n, from + kSummed);
        vec<T> ab[V] = {}, ac[V] = {};
        int64_t j = from;
        for (; j + V * W <= end; j += V * W)
#pragma GCC unroll 4
            for (int k = 0; k < V; ++k) {
                const vec<T> v = widened<T>(a + j + k * W, W);
                ab[k] = fma(v, load(b + j + k * W), ab[k]);
                ac[k] = fma(v, load(c + j + k * W), ac[k]);
            }
        for (; j < end; j += W) {
            const vec<T> v = widened<T>(a + j, end - j);
            ab[0] = fma(v, load_up_to(b + j, end - j), ab[0]);
            ac[0] = fma(v, load_up_to(c + j, end - j), ac[0]);
        }
        total.first += double(sum_of<T>((ab[0] + ab[1]) + (ab[2] + ab[3])));
        total.second += double(sum_of<T>((ac[0] + ac[1]) + (ac[2] + ac[3])));
    }
    return total;
}

// a.b
template <class T, class H> FASTITER_INLINE double product(const H* a, const T* b, int64_t n) {
    constexpr int W = lanes<T>;
    double total = 0;
    for (int64_t from = 0; from < n; from += kSummed) {
        const int64_t end = min_of(n, from + kSummed);
        vec<T> sum[2] = {};
        int64_t j = from;
        for (; j + 2 * W <= end; j += 2 * W)
#pragma GCC unroll 2
            for (int k = 0; k < 2; ++k) sum[k] = fma(widened<T>(a + j + k * W, W), load(b + j + k * W), sum[k]);
        for (; j < end; j += W) sum[0] = fma(widened<T>(a + j, end - j), load_up_to(b + j, end - j), sum[0]);
        total += double(sum_of<T>(sum[0] + sum[1]));
    }
    return total;
}

// The rows and chunks of one thread: calls f(row, chunk, first, count).
template <class F> FASTITER_INLINE void each_chunk(int64_t rows, int64_t n, const Team& team, F f) {
    const int64_t chunks = chunks_of(n), items = rows * chunks;
    const int64_t begin = items * team.id / team.size, end = items * (team.id + 1) / team.size;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t row = item / chunks, chunk = item % chunks, first = chunk * kChunk;
        f(row, chunk, first, min_of(n - first, kChunk));
    }
}

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
