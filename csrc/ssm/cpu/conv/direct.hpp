// Loops of the causal convolution that read and write signals in place, for 2 to 4 taps; S is their storage type.
// Additions are in the same order as for the blocks in conv.hpp, so that results are bitwise the same.
#pragma once
#include "ssm/cpu/conv/conv.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// Lanes K to K + L - 1 of the concatenation of two vectors. With AVX-512 the compiler would choose a general
// permutation, which competes with multiply-adds for an execution port.
#if defined(__AVX512F__)
template <class T, int K> FASTITER_INLINE vec<T> window(vec<T> a, vec<T> b) {
    if constexpr (sizeof(T) == 4)
        return (vec<T>)_mm512_alignr_epi32((__m512i)b, (__m512i)a, K);
    else
        return (vec<T>)_mm512_alignr_epi64((__m512i)b, (__m512i)a, K);
}
#else
template <class T, int K, size_t... I> FASTITER_INLINE vec<T> window(vec<T> a, vec<T> b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, int(I + K)...);
}
template <class T, int K> FASTITER_INLINE vec<T> window(vec<T> a, vec<T> b) {
    return window<T, K>(a, b, std::make_index_sequence<lanes<T>>());
}
#endif

// Calls f.template operator()<j>() for j from 0 to W - 1.
template <class F, int... J> FASTITER_INLINE void each_tap(F f, std::integer_sequence<int, J...>) {
    (f.template operator()<J>(), ...);
}
template <int W, class F> FASTITER_INLINE void each_tap(F f) { each_tap(f, std::make_integer_sequence<int, W>()); }

template <class T, int W> struct FilterVectors {
    vec<T> tap[W], bias;
    FASTITER_INLINE explicit FilterVectors(const T* vectors) {
#pragma GCC unroll 4
        for (int j = 0; j < W; ++j) tap[j] = load(vectors + j * lanes<T>);
        bias = load(vectors + W * lanes<T>);
    }
    // bias + sum of tap[j] x[j]
    FASTITER_INLINE vec<T> sum(const vec<T>* x) const {
        vec<T> y = bias;
#pragma GCC unroll 4
        for (int j = 0; j < W; ++j) y = fma(tap[j], x[j], y);
        return y;
    }
    // The gradient of an input; d[k] is dpre k steps later.
    FASTITER_INLINE vec<T> back(const vec<T>* d) const {
        vec<T> y{};
#pragma GCC unroll 4
        for (int k = 0; k < W; ++k) y = fma(tap[W - 1 - k], d[k], y);
        return y;
    }
};

// pre[r] = act(pre[r])
template <bool Silu, int R, class T> FASTITER_INLINE void activate(vec<T>* pre) {
    if constexpr (!Silu) return;
    vec<T> s[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) s[r] = pre[r];
    sigmoids<T, R>(s);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) pre[r] *= s[r];
}
// d[r] *= act'(pre[r])
template <bool Silu, int R, class T> FASTITER_INLINE void multiply_by_slope(const vec<T>* pre, vec<T>* d) {
    if constexpr (!Silu) return;
    vec<T> s[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) s[r] = pre[r];
    sigmoids<T, R>(s);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) d[r] *= s[r] * fma(pre[r], broadcast(T(1)) - s[r], broadcast(T(1)));
}

// Steps, or vectors of a row, that are processed together, enough to hide the latency of an exponential
constexpr int kTogether = 4;
constexpr int kRowTogether = kVectorBytes == 64 ? 8 : 4;

// The inputs that the taps of a vector of a row read, given the vector before it
template <class T, int W> FASTITER_INLINE void row_taps(vec<T> before, vec<T> x, vec<T>* taps) {
    each_tap<W - 1>([&]<int J>() { taps[J] = window<T, lanes<T> - (W - 1 - J)>(before, x); });
    taps[W - 1] = x;
}

template <class S, int W, bool Silu>
FASTITER_NOINLINE void convolve_row(const accumulate_t<S>* filter, const accumulate_t<S>* inputs_before, const S* x,
                                    int64_t steps, S* out) {
    using T = accumulate_t<S>;
    constexpr int L = lanes<T>;
    const FilterVectors<T, W> weights(filter);
    vec<T> before = load(inputs_before);
    auto visit = [&]<int R>(const vec<T>* now, vec<T>* y) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            vec<T> taps[W];
            row_taps<T, W>(r ? now[r - 1] : before, now[r], taps);
            y[r] = weights.sum(taps);
        }
        before = now[R - 1];
        activate<Silu, R, T>(y);
    };
    auto whole = [&]<int R>(int64_t t) {
        vec<T> now[R], y[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) now[r] = load(x + t + r * L);
        visit.template operator()<R>(now, y);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) store(out + t + r * L, y[r]);
    };
    int64_t t = 0;
    for (; t + kRowTogether * L <= steps; t += kRowTogether * L) whole.template operator()<kRowTogether>(t);
    for (; t + 4 * L <= steps; t += 4 * L) whole.template operator()<4>(t);
    for (; t < steps; t += L) {
        const vec<T> now = load_up_to(x + t, steps - t);
        vec<T> y;
        visit.template operator()<1>(&now, &y);
        store_up_to(out + t, y, steps - t);
    }
}

// `vectors` vectors of a row, and dpre of the vector after them
template <class S> struct RowGradient {
    const accumulate_t<S>*filter, *inputs_before, *dpre_after;
    const S *x, *d_out;
    S* dx; // nullptr: not requested
    int64_t vectors;
    accumulate_t<S>* sums;
};

template <class S, int W, bool Silu> FASTITER_NOINLINE void differentiate_row(const RowGradient<S>& p) {
    using T = accumulate_t<S>;
    constexpr int L = lanes<T>;
    const FilterVectors<T, W> weights(p.filter);
    FilterVectors<T, W> sums(p.sums);
    vec<T> before = load(p.inputs_before), last{};
    // The gradients of the vector of inputs at t, given dpre there and at the next vector
    auto write = [&](int64_t t, vec<T> now, vec<T> next) {
        vec<T> d[W];
        each_tap<W>([&]<int K>() { d[K] = window<T, K>(now, next); });
        store(p.dx + t, weights.back(d));
    };
    auto visit = [&]<int R>(int64_t t) {
        vec<T> now[R], pre[R], d[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            vec<T> taps[W];
            now[r] = load(p.x + t + r * L);
            row_taps<T, W>(r ? now[r - 1] : before, now[r], taps);
            pre[r] = weights.sum(taps);
            d[r] = load(p.d_out + t + r * L);
        }
        multiply_by_slope<Silu, R, T>(pre, d);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            vec<T> taps[W];
            row_taps<T, W>(r ? now[r - 1] : before, now[r], taps);
#pragma GCC unroll 4
            for (int j = 0; j < W; ++j) sums.tap[j] = fma(d[r], taps[j], sums.tap[j]);
            sums.bias += d[r];
        }
        if (p.dx) {
            if (t) write(t - L, last, d[0]);
#pragma GCC unroll 8
            for (int r = 1; r < R; ++r) write(t + (r - 1) * L, d[r - 1], d[r]);
        }
        before = now[R - 1];
        last = d[R - 1];
    };
    const int64_t end = p.vectors * L;
    int64_t t = 0;
    for (; t + kRowTogether * L <= end; t += kRowTogether * L) visit.template operator()<kRowTogether>(t);
    for (; t + 4 * L <= end; t += 4 * L) visit.template operator()<4>(t);
    for (; t < end; t += L) visit.template operator()<1>(t);
    if (p.dx && p.vectors) write(end - L, last, load(p.dpre_after));
#pragma GCC unroll 4
    for (int j = 0; j < W; ++j) store(p.sums + j * L, sums.tap[j]);
    store(p.sums + W * L, sums.bias);
}

// R steps of `channels` channels, which are contiguous at each step: rows[k] is step k - (W - 1).
template <class S, int W, bool Silu, int R>
FASTITER_NOINLINE void convolve_steps(const accumulate_t<S>* filters, const S* const* rows, S* out, int64_t time,
                                      int64_t channels) {
    using T = accumulate_t<S>;
    constexpr int L = lanes<T>;
    for (int64_t c = 0; c < channels; c += L, filters += (W + 1) * L) {
        const int64_t left = channels - c;
        const FilterVectors<T, W> weights(filters);
        vec<T> x[W - 1 + R];
#pragma GCC unroll 8
        for (int k = 0; k < W - 1 + R; ++k) x[k] = load_up_to(rows[k] + c, left);
        vec<T> y[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) y[r] = weights.sum(x + r);
        activate<Silu, R, T>(y);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) store_up_to(out + r * time + c, y[r], left);
    }
}

// The gradient at R steps, and the gradient of the inputs W - 1 steps earlier
template <class S, int W, int R> struct StepsGradient {
    const accumulate_t<S>* filters;
    const S* rows[W - 1 + R]; // as above
    const S* d_out[R];
    S* dx[R];              // for steps 1 - W to R - W
    accumulate_t<S>* dpre; // (W - 1, line): dpre of the W - 1 steps before; on return, of the last W - 1 steps
    int64_t line, channels;
    accumulate_t<S>* sums;
};

template <class S, int W, bool Silu, int R>
FASTITER_NOINLINE void differentiate_steps(const StepsGradient<S, W, R>& p) {
    using T = accumulate_t<S>;
    constexpr int L = lanes<T>;
    for (int64_t c = 0, at = 0; c < p.channels; c += L, at += (W + 1) * L) {
        const int64_t left = p.channels - c;
        const FilterVectors<T, W> weights(p.filters + at);
        FilterVectors<T, W> sums(p.sums + at);
        vec<T> x[W - 1 + R], d[W - 1 + R], pre[R];
#pragma GCC unroll 8
        for (int k = 0; k < W - 1 + R; ++k) x[k] = load_up_to(p.rows[k] + c, left);
#pragma GCC unroll 4
        for (int k = 0; k < W - 1; ++k) d[k] = load(p.dpre + k * p.line + c);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            pre[r] = weights.sum(x + r);
            d[W - 1 + r] = load_up_to(p.d_out[r] + c, left);
        }
        multiply_by_slope<Silu, R, T>(pre, d + W - 1);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const vec<T> now = d[W - 1 + r];
#pragma GCC unroll 4
            for (int j = 0; j < W; ++j) sums.tap[j] = fma(now, x[r + j], sums.tap[j]);
            sums.bias += now;
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) store_up_to(p.dx[r] + c, weights.back(d + r), left);
#pragma GCC unroll 4
        for (int k = 0; k < W - 1; ++k) store(p.dpre + k * p.line + c, d[R + k]);
#pragma GCC unroll 4
        for (int j = 0; j < W; ++j) store(p.sums + at + j * L, sums.tap[j]);
        store(p.sums + at + W * L, sums.bias);
    }
}

} // namespace fastiter::ssm::FASTITER_LEVEL
