// Sums in a fixed order, of the channels in a vector and of the parts that units of work leave.
#pragma once
#include "ssm/cpu/tiles.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// out[n] = the sum of the channels of vector n, for `count` of them
template <class T> void add_channels(const T* vectors, int64_t count, T* out) {
    constexpr int W = lanes<T>;
    for (int64_t n = 0; n < count; n += W) {
        vec<T> v[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) v[i] = n + i < count ? load(vectors + (n + i) * W) : vec<T>{};
        transpose<T>(v);
        for (int i = 1; i < W; ++i) v[0] += v[i];
        store_up_to(out + n, v[0], count - n);
    }
}

template <class T> void fill_zero(T* p, int64_t count) {
    for (int64_t i = 0; i < count; i += lanes<T>) store_up_to(p + i, vec<T>{}, count - i);
}

// out = the sum of `count` arrays of `size` numbers, in order; a thread adds its share of them.
template <class T> void add_parts(const T* parts, int64_t count, int64_t size, T* out, Team team) {
    if (!parts || !out) return;
    const int64_t share = round_up(ceil_div(size, team.size), lanes<T>);
    const int64_t to = min_of(size, (team.id + 1) * share);
    for (int64_t c = team.id * share; c < to; c += lanes<T>) {
        vec<T> sum = count ? load_up_to(parts + c, to - c) : vec<T>{};
        for (int64_t i = 1; i < count; ++i) sum += load_up_to(parts + i * size + c, to - c);
        store_up_to(out + c, sum, to - c);
    }
}

} // namespace fastiter::ssm::FASTITER_LEVEL
