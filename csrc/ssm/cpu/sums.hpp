// Sums in a fixed order: over the channels in a vector, and over the partial sums of units of work.
#pragma once
#include "core/cpu/sums.hpp"
#include "ssm/cpu/tiles.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// out[n] = the sum over the channels of vector n, at vectors(n), for `count` vectors
template <class F, class T> void add_channels(F vectors, int64_t count, T* out) {
    constexpr int W = lanes<T>;
    for (int64_t n = 0; n < count; n += W) {
        vec<T> v[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) v[i] = n + i < count ? load(vectors(n + i)) : vec<T>{};
        store_up_to(out + n, sums_of<T>(v), count - n);
    }
}

// The same for contiguous vectors
template <class T> void add_channels(const T* vectors, int64_t count, T* out) {
    add_channels([=](int64_t n) { return vectors + n * lanes<T>; }, count, out);
}

template <class T> void fill_zero(T* p, int64_t count) {
    for (int64_t i = 0; i < count; i += lanes<T>) store_up_to(p + i, vec<T>{}, count - i);
}

// out = the sum of `count` arrays of `size` numbers, in order; each thread adds its share.
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
