// Tiles: a vector of channels for several consecutive steps, (steps, channels), copied from arrays of any layout and
// storage type into the type of the computation and back.
#pragma once
#include "core/cpu/simd.hpp"
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

namespace detail {
template <class V, size_t... I> FASTITER_INLINE V lower_halves(V a, V b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, int(I / 2 + (I & 1) * sizeof...(I))...);
}
template <class V, size_t... I> FASTITER_INLINE V upper_halves(V a, V b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, int(sizeof...(I) / 2 + I / 2 + (I & 1) * sizeof...(I))...);
}
template <class V, size_t... I> FASTITER_INLINE V every_second(V a, V b, int first, std::index_sequence<I...>) {
    return first ? __builtin_shufflevector(a, b, int(2 * I + 1)...) : __builtin_shufflevector(a, b, int(2 * I)...);
}
} // namespace detail

// Transposes a square of vectors: each of log2(lanes) passes interleaves the first half of them with the second.
template <class T> FASTITER_INLINE void transpose(vec<T>* v) {
    constexpr int W = lanes<T>;
    constexpr auto all = std::make_index_sequence<W>();
#pragma GCC unroll 4
    for (int pass = 1; pass < W; pass *= 2) {
        vec<T> next[W];
#pragma GCC unroll 16
        for (int i = 0; i < W / 2; ++i) {
            next[2 * i] = detail::lower_halves(v[i], v[i + W / 2], all);
            next[2 * i + 1] = detail::upper_halves(v[i], v[i + W / 2], all);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) v[i] = next[i];
    }
}

// Deinterleaves quadruples: vector i of four consecutive vectors becomes the numbers i of all quadruples.
template <class T> FASTITER_INLINE void separate_4(vec<T>* v) {
    constexpr auto all = std::make_index_sequence<lanes<T>>();
    const vec<T> even[] = {detail::every_second(v[0], v[1], 0, all), detail::every_second(v[2], v[3], 0, all)};
    const vec<T> odd[] = {detail::every_second(v[0], v[1], 1, all), detail::every_second(v[2], v[3], 1, all)};
    v[0] = detail::every_second(even[0], even[1], 0, all);
    v[1] = detail::every_second(odd[0], odd[1], 0, all);
    v[2] = detail::every_second(even[0], even[1], 1, all);
    v[3] = detail::every_second(odd[0], odd[1], 1, all);
}
// The inverse
template <class T> FASTITER_INLINE void join_4(vec<T>* v) {
    constexpr auto all = std::make_index_sequence<lanes<T>>();
    const vec<T> even[] = {detail::lower_halves(v[0], v[2], all), detail::upper_halves(v[0], v[2], all)};
    const vec<T> odd[] = {detail::lower_halves(v[1], v[3], all), detail::upper_halves(v[1], v[3], all)};
    v[0] = detail::lower_halves(even[0], odd[0], all);
    v[1] = detail::upper_halves(even[0], odd[0], all);
    v[2] = detail::lower_halves(even[1], odd[1], all);
    v[3] = detail::upper_halves(even[1], odd[1], all);
}

// Part of a signal: `channels` channels, at most one vector, for `steps` steps. Strides count elements.
template <class S> struct Piece {
    S* data;
    int64_t channel, time, channels, steps;

    // Whether it is a full vector of channels with 4 steps each, contiguous
    bool is_quadruples() const {
        return time == 1 && channel == 4 && steps == 4 && channels == lanes<std::remove_const_t<S>>;
    }
};

// tile[t * line + c] = channel c at step t; channels beyond the last, up to a whole vector, are 0.
template <class S> FASTITER_NOINLINE void read_piece(const Piece<const S>& p, accumulate_t<S>* tile, int64_t line) {
    using T = accumulate_t<S>;
    constexpr int W = lanes<T>;
    if (p.channel == 1 || p.channels == 1) {
        for (int64_t t = 0; t < p.steps; ++t) store(tile + t * line, load_up_to(p.data + t * p.time, p.channels));
    } else if (p.is_quadruples()) {
        vec<T> v[] = {load(p.data), load(p.data + W), load(p.data + 2 * W), load(p.data + 3 * W)};
        separate_4<T>(v);
        for (int t = 0; t < 4; ++t) store(tile + t * line, v[t]);
    } else if (p.time == 1) {
        for (int64_t t = 0; t < p.steps; t += W) {
            vec<T> v[W];
#pragma GCC unroll 16
            for (int c = 0; c < W; ++c)
                v[c] = c < p.channels ? load_up_to(p.data + c * p.channel + t, p.steps - t) : vec<T>{};
            transpose<T>(v);
            const int64_t steps = min_of(W, p.steps - t);
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i)
                if (i < steps) store(tile + (t + i) * line, v[i]);
        }
    } else {
        for (int64_t t = 0; t < p.steps; ++t) {
            store(tile + t * line, vec<T>{});
            for (int64_t c = 0; c < p.channels; ++c)
                tile[t * line + c] = load_first(p.data + c * p.channel + t * p.time, 1)[0];
        }
    }
}

// `past_caches`: with streaming stores where channels or steps are contiguous
template <class S>
FASTITER_NOINLINE void write_piece(const Piece<S>& p, const accumulate_t<S>* tile, int64_t line, bool past_caches) {
    using T = accumulate_t<S>;
    constexpr int W = lanes<T>;
    if (p.channel == 1 || p.channels == 1) {
        for (int64_t t = 0; t < p.steps; ++t)
            put_up_to(p.data + t * p.time, load(tile + t * line), p.channels, past_caches);
    } else if (p.is_quadruples()) {
        vec<T> v[] = {load(tile), load(tile + line), load(tile + 2 * line), load(tile + 3 * line)};
        join_4<T>(v);
        for (int i = 0; i < 4; ++i) store(p.data + i * W, v[i]);
    } else if (p.time == 1) {
        for (int64_t t = 0; t < p.steps; t += W) {
            const int64_t steps = min_of(W, p.steps - t);
            vec<T> v[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) v[i] = i < steps ? load(tile + (t + i) * line) : vec<T>{};
            transpose<T>(v);
#pragma GCC unroll 16
            for (int c = 0; c < W; ++c)
                if (c < p.channels) put_up_to(p.data + c * p.channel + t, v[c], steps, past_caches);
        }
    } else {
        for (int64_t t = 0; t < p.steps; ++t)
            for (int64_t c = 0; c < p.channels; ++c)
                store_first(p.data + c * p.channel + t * p.time, broadcast(tile[t * line + c]), 1);
    }
}

// Compiled once, in tiles.cpp
#define FASTITER_PIECES(S)                                                             \
    extern template void read_piece(const Piece<const S>&, accumulate_t<S>*, int64_t); \
    extern template void write_piece(const Piece<S>&, const accumulate_t<S>*, int64_t, bool);
FASTITER_PIECES(float)
FASTITER_PIECES(double)
FASTITER_PIECES(bf16)
FASTITER_PIECES(f16)
#undef FASTITER_PIECES

// Calls f(pointer) with the storage type of a signal; T is the type of the computation.
template <class T, class F> FASTITER_INLINE void with_storage(const Signal& x, F f) {
    if constexpr (sizeof(T) == 8)
        f(static_cast<double*>(x.data));
    else if (x.storage == Storage::bf16)
        f(static_cast<bf16*>(x.data));
    else if (x.storage == Storage::f16)
        f(static_cast<f16*>(x.data));
    else
        f(static_cast<float*>(x.data));
}

// The position of a tile: row, first channel and step, and how many of them
struct Place {
    int64_t row, channel, channels, time, steps;
};

// Reads a tile of at most one vector of channels; its steps are `line` numbers apart.
template <class T> FASTITER_INLINE void read_tile(const Signal& x, const Place& at, T* tile, int64_t line = lanes<T>) {
    with_storage<T>(x, [&]<class S>(S* data) {
        const int64_t from = at.row * x.row + at.channel * x.channel + at.time * x.time;
        read_piece<S>({data + from, x.channel, x.time, at.channels, at.steps}, tile, line);
    });
}
template <class T>
FASTITER_INLINE void write_tile(const Signal& x, const Place& at, const T* tile, int64_t line = lanes<T>,
                                bool past_caches = false) {
    with_storage<T>(x, [&]<class S>(S* data) {
        const int64_t from = at.row * x.row + at.channel * x.channel + at.time * x.time;
        write_piece<S>({data + from, x.channel, x.time, at.channels, at.steps}, tile, line, past_caches);
    });
}

// A contiguous (row, channel, state) in the type of the computation as a signal (row, channel, time): all states of a
// vector of channels are a tile whose steps are the states.
template <class T> FASTITER_INLINE Signal states_of(const T* data, int64_t channels, int64_t states) {
    return {const_cast<T*>(data), channels * states, states, 1, sizeof(T) == 8 ? Storage::f64 : Storage::f32};
}

} // namespace fastiter::ssm::FASTITER_LEVEL
