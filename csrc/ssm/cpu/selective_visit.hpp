// A tile of the selective scan, backward, for one vector of channels: recomputes the states, then visits the steps in
// reverse.
#pragma once
#include "ssm/cpu/selective.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// States that are visited together; their decays and states at all steps of a tile stay in the first-level cache.
constexpr int kVisited = kVectorBytes == 64 ? 8 : 4;

// The sums over channels of a projection's gradient, vectors at data[t * time + n * lanes]
template <class T> struct Sums {
    T* data = nullptr;
    int64_t time = 0;
};

template <class T> struct Tile {
    const T* d;
    const T* du;
    const T* dy;
    T* y; // nullptr: not requested
    T* dx;
    T* dd; // the sum of w A log2 e
    Weights<T> B, C;
    Sums<T> dB, dC;
    const uint8_t* reset;
    int64_t steps;
    T *a, *h; // the decays and the states, before the first step and after each
};

// The states' part of a block: their values before the tile, al = a[t+1] l[t+1] and dA, each (N, lanes)
template <class T> struct States {
    const T* A;
    const T* before;
    T* al;
    T* dA;
};

template <class T, int Count, bool Small, bool Lanes>
FASTITER_NOINLINE void recompute(const Tile<T>& w, int64_t n, const States<T>& s) {
    constexpr int W = lanes<T>;
    vec<T> state[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        state[i] = load(s.before + (n + i) * W);
        store(w.h + i * W, state[i]);
    }
    for (int64_t t = 0; t < w.steps; ++t) {
        if (w.reset && w.reset[t])
            for (vec<T>& x : state) x = vec<T>{};
        const vec<T> d = load(w.d + t * W), du = load(w.du + t * W);
        vec<T> a[Count];
        decay<T, Small, Count>(d, s.A + n * W, a);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
            state[i] = fma(a[i], state[i], du * weight<T, Lanes>(w.B, t, n + i));
            store(w.a + (t * Count + i) * W, a[i]);
            store(w.h + ((t + 1) * Count + i) * W, state[i]);
        }
        if (!w.y) continue;
        vec<T> y = load(w.y + t * W);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) y = fma(state[i], weight<T, Lanes>(w.C, t, n + i), y);
        store(w.y + t * W, y);
    }
}

template <class T, int Count, bool Lanes>
FASTITER_NOINLINE void visit(const Tile<T>& w, int64_t n, const States<T>& s) {
    constexpr int W = lanes<T>;
    vec<T> al[Count], dA[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        al[i] = load(s.al + (n + i) * W);
        dA[i] = load(s.dA + (n + i) * W);
    }
    for (int64_t t = w.steps - 1; t >= 0; --t) {
        const vec<T> d = load(w.d + t * W), du = load(w.du + t * W), dy = load(w.dy + t * W);
        vec<T> dx = load(w.dx + t * W), dd = load(w.dd + t * W);
        T* dB = w.dB.data + t * w.dB.time + n * W;
        T* dC = w.dC.data + t * w.dC.time + n * W;
        const bool is_reset = w.reset && w.reset[t];
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
            const vec<T> l = fma(weight<T, Lanes>(w.C, t, n + i), dy, al[i]);
            store(dC + i * W, fma(dy, load(w.h + ((t + 1) * Count + i) * W), load(dC + i * W)));
            store(dB + i * W, fma(l, du, load(dB + i * W)));
            dx = fma(l, weight<T, Lanes>(w.B, t, n + i), dx);
            al[i] = load(w.a + (t * Count + i) * W) * l;
            if (is_reset) {
                al[i] = vec<T>{};
                continue;
            }
            const vec<T> wa = al[i] * load(w.h + (t * Count + i) * W);
            dA[i] = fma(wa, d, dA[i]);
            dd = fma(wa, load(s.A + (n + i) * W), dd);
        }
        store(w.dx + t * W, dx);
        store(w.dd + t * W, dd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        store(s.al + (n + i) * W, al[i]);
        store(s.dA + (n + i) * W, dA[i]);
    }
}

template <class T, int Count, bool Small, bool Lanes>
FASTITER_INLINE void visit_states(const Tile<T>& w, int64_t n, const States<T>& s) {
    recompute<T, Count, Small, Lanes>(w, n, s);
    visit<T, Count, Lanes>(w, n, s);
}

template <class T, bool Small, bool Lanes> void visit_all(const Tile<T>& w, int64_t N, const States<T>& s) {
    int64_t n = 0;
    for (; n + kVisited <= N; n += kVisited) visit_states<T, kVisited, Small, Lanes>(w, n, s);
    for (; n < N; ++n) visit_states<T, 1, Small, Lanes>(w, n, s);
}

} // namespace fastiter::ssm::FASTITER_LEVEL
