// A tile of the selective scan, backward, for one vector of channels: recomputes the states, then visits the steps in
// reverse.
#pragma once
#include "ssm/cpu/selective.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// States that are visited together; their decays and states at all steps of a tile stay in the first-level cache.
template <bool Complex> constexpr int kVisited = (kVectorBytes == 64 ? 8 : 4) / kParts<Complex>;

// The sums over channels of a projection's gradient, numbers of vectors at data[t * time + n * parts * lanes]
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
    T* dd; // the sum of Re(conj(w) A) log2 e
    Weights<T> B, C;
    Sums<T> dB, dC;
    const uint8_t* reset;
    int64_t steps;
    T *a, *h; // the decays and the states, before the first step and after each
};

// The states' part of a block: their values before the tile, al = conj(a[t+1]) l[t+1] and dA, each (N, lanes), or
// (N, 2, lanes)
template <class T> struct States {
    const T* rates;
    const T* before;
    T* al;
    T* dA;
};

template <class T, bool Complex, int Count, bool Small, bool Lanes>
FASTITER_NOINLINE void recompute(const Tile<T>& w, int64_t n, const States<T>& s) {
    constexpr int W = lanes<T>, P = kParts<Complex>, R = kRates<Complex>;
    Number<T, Complex> state[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        state[i] = load_number<T, Complex>(s.before + (n + i) * P * W);
        store_number(w.h + i * P * W, state[i]);
    }
    for (int64_t t = 0; t < w.steps; ++t) {
        if (w.reset && w.reset[t])
            for (auto& x : state) x = {};
        const vec<T> d = load(w.d + t * W), du = load(w.du + t * W);
        constexpr int kLockstep = Complex ? min_of(Count, 2) : Count;
#pragma GCC unroll 4
        for (int i = 0; i < Count; i += kLockstep) {
            Number<T, Complex> a[kLockstep];
            decay<T, Complex, Small, kLockstep>(d, s.rates + (n + i) * R * W, a);
#pragma GCC unroll 8
            for (int j = 0; j < kLockstep; ++j) {
                const auto input = scaled(du, weight<T, Complex, Lanes>(w.B, t, n + i + j));
                state[i + j] = multiply_add(a[j], state[i + j], input);
                store_number(w.a + (t * Count + i + j) * P * W, a[j]);
                store_number(w.h + ((t + 1) * Count + i + j) * P * W, state[i + j]);
            }
        }
        if (!w.y) continue;
        vec<T> y = load(w.y + t * W);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i)
            y = add_real_part<T, Complex, false>(state[i], weight<T, Complex, Lanes>(w.C, t, n + i), y);
        store(w.y + t * W, y);
    }
}

template <class T, bool Complex, int Count, bool Lanes>
FASTITER_NOINLINE void visit(const Tile<T>& w, int64_t n, const States<T>& s) {
    constexpr int W = lanes<T>, P = kParts<Complex>, R = kRates<Complex>;
    using N = Number<T, Complex>;
    N al[Count], dA[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        al[i] = load_number<T, Complex>(s.al + (n + i) * P * W);
        dA[i] = load_number<T, Complex>(s.dA + (n + i) * P * W);
    }
    for (int64_t t = w.steps - 1; t >= 0; --t) {
        const vec<T> d = load(w.d + t * W), du = load(w.du + t * W), dy = load(w.dy + t * W);
        vec<T> dx = load(w.dx + t * W), dd = load(w.dd + t * W);
        T* dB = w.dB.data + t * w.dB.time + n * P * W;
        T* dC = w.dC.data + t * w.dC.time + n * P * W;
        const bool is_reset = w.reset && w.reset[t];
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
            const int at = i * P * W;
            const N l = add_scaled<T, Complex, true>(dy, weight<T, Complex, Lanes>(w.C, t, n + i), al[i]);
            const N h = load_number<T, Complex>(w.h + (t + 1) * Count * P * W + at);
            store_number(dC + at, add_scaled<T, Complex, true>(dy, h, load_number<T, Complex>(dC + at)));
            store_number(dB + at, add_scaled(du, l, load_number<T, Complex>(dB + at)));
            dx = add_real_part<T, Complex, true>(l, weight<T, Complex, Lanes>(w.B, t, n + i), dx);
            al[i] = conjugate_product(load_number<T, Complex>(w.a + t * Count * P * W + at), l);
            if (is_reset) {
                al[i] = {};
                continue;
            }
            const N wa = conjugate_product(load_number<T, Complex>(w.h + t * Count * P * W + at), al[i]);
            dA[i] = add_scaled(d, wa, dA[i]);
            dd = fma(wa.part[0], load(s.rates + (n + i) * R * W), dd);
            if constexpr (Complex) dd = fma(wa.part[1], load(s.rates + ((n + i) * R + 3) * W), dd);
        }
        store(w.dx + t * W, dx);
        store(w.dd + t * W, dd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        store_number(s.al + (n + i) * P * W, al[i]);
        store_number(s.dA + (n + i) * P * W, dA[i]);
    }
}

template <class T, bool Complex, int Count, bool Small, bool Lanes>
FASTITER_INLINE void visit_states(const Tile<T>& w, int64_t n, const States<T>& s) {
    recompute<T, Complex, Count, Small, Lanes>(w, n, s);
    visit<T, Complex, Count, Lanes>(w, n, s);
}

template <class T, bool Complex, bool Small, bool Lanes>
void visit_all(const Tile<T>& w, int64_t N, const States<T>& s) {
    constexpr int kMost = kVisited<Complex>;
    int64_t n = 0;
    for (; n + kMost <= N; n += kMost) visit_states<T, Complex, kMost, Small, Lanes>(w, n, s);
    for (; n < N; ++n) visit_states<T, Complex, 1, Small, Lanes>(w, n, s);
}

} // namespace fastiter::ssm::FASTITER_LEVEL
