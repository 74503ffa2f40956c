// A tile of the selective scan, backward, for one vector of channels: recomputes the states, then visits the steps in
// reverse.
#pragma once
#include "ssm/cpu/selective/selective.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// States that are processed together; their decays and states at all steps of a tile, and their sums over channels,
// stay in the first-level cache.
template <bool Complex> constexpr int kVisited = 4 / kParts<Complex>;

// The sums over channels of a projection's gradient, several vectors for each state: (N / kVisited, kTile, kVisited),
// so that states processed together are contiguous, or (N) if fixed
template <class T, bool Complex> struct Sums {
    static constexpr int V = kVisited<Complex>, size = kParts<Complex> * lanes<T>;
    T* data = nullptr;
    bool fixed = false;

    static int64_t numbers(int64_t N, bool fixed) { return size * (fixed ? N * kPanel : round_up(N, V) * kTile); }
    T* at(int64_t n) const { return data + (fixed ? n : n / V * V * kTile + n % V) * size; }
    int64_t time() const { return fixed ? 0 : V * size; }
};

// Distance between the signals of a tile
template <class T> constexpr int64_t kSignal = kTile * lanes<T>;

template <class T, bool Complex> struct Tile {
    T* signals; // d, d u, dy, dx, the sum of Re(conj(w) A) log2 e, and y, kSignal apart
    bool with_y;
    Weights<T> B, C;
    Sums<T, Complex> dB, dC;
    const uint8_t* reset;
    int64_t steps;
    T* history; // for the states processed together: their values before each step, and their decays
    Lines* lines;
};

// The states of a block: their values before the tile, al = conj(a[t+1]) l[t+1] and dA, each (N, lanes), or (N, 2,
// lanes)
template <class T> struct States {
    const T* rates;
    const T* before;
    T* al;
    T* dA;
};

template <class T, bool Complex, int Count, bool Small, bool Lanes>
FASTITER_NOINLINE void recompute(const Tile<T, Complex>& w, int64_t n, const States<T>& s) {
    constexpr int W = lanes<T>, P = kParts<Complex>, R = kRates<Complex>;
    Number<T, Complex> state[Count];
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        state[i] = load_number<T, Complex>(s.before + (n + i) * P * W);
        store_number(w.history + i * P * W, state[i]);
    }
    T* x = w.signals;
    T* history = w.history;
    Weights<T> B = weights_from<T, Complex, Lanes>(w.B, 0, n), C = weights_from<T, Complex, Lanes>(w.C, 0, n);
    for (int64_t t = 0; t < w.steps; ++t, x += W, history += 2 * Count * P * W, B.data += B.time, C.data += C.time) {
        if (w.reset && w.reset[t])
            for (auto& x : state) x = {};
        w.lines->fetch();
        const vec<T> d = load(x), du = load(x + kSignal<T>);
        constexpr int kLockstep = Complex ? min_of(Count, 2) : Count;
#pragma GCC unroll 4
        for (int i = 0; i < Count; i += kLockstep) {
            Number<T, Complex> a[kLockstep];
            decay<T, Complex, Small, kLockstep>(d, s.rates + (n + i) * R * W, a);
#pragma GCC unroll 8
            for (int j = 0; j < kLockstep; ++j) {
                const auto input = scaled(du, weight<T, Complex, Lanes>(B, i + j));
                state[i + j] = multiply_add(a[j], state[i + j], input);
                store_number(history + (Count + i + j) * P * W, a[j]);
                store_number(history + (2 * Count + i + j) * P * W, state[i + j]);
            }
        }
        if (!w.with_y) continue;
        vec<T> y = load(x + 5 * kSignal<T>);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i)
            y = add_real_part<T, Complex, false>(state[i], weight<T, Complex, Lanes>(C, i), y);
        store(x + 5 * kSignal<T>, y);
    }
}

template <class T, bool Complex, int Count, bool Lanes>
FASTITER_NOINLINE void visit(const Tile<T, Complex>& w, int64_t n, const States<T>& s) {
    constexpr int W = lanes<T>, P = kParts<Complex>, R = kRates<Complex>;
    using N = Number<T, Complex>;
    N al[Count], dA[Count], after[Count], log2_rate[Count];
    const T* const end = w.history + w.steps * 2 * Count * P * W;
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        al[i] = load_number<T, Complex>(s.al + (n + i) * P * W);
        dA[i] = load_number<T, Complex>(s.dA + (n + i) * P * W);
        after[i] = load_number<T, Complex>(end + i * P * W);
        log2_rate[i].part[0] = load(s.rates + (n + i) * R * W);
        if constexpr (Complex) log2_rate[i].part[1] = load(s.rates + ((n + i) * R + 3) * W);
    }
    const int64_t last = w.steps - 1;
    const int64_t of_B = Lanes ? w.dB.time() : kVisited<Complex> * P * W, of_C = Lanes ? w.dC.time() : of_B;
    T* x = w.signals + last * W;
    const T* history = end - 2 * Count * P * W;
    T* dB = w.dB.at(n) + last * of_B;
    T* dC = w.dC.at(n) + last * of_C;
    Weights<T> B = weights_from<T, Complex, Lanes>(w.B, last, n), C = weights_from<T, Complex, Lanes>(w.C, last, n);
    for (int64_t t = last; t >= 0; --t) {
        const vec<T> d = load(x), du = load(x + kSignal<T>), dy = load(x + 2 * kSignal<T>);
        vec<T> dx = load(x + 3 * kSignal<T>), dd = load(x + 4 * kSignal<T>);
        const bool is_reset = w.reset && w.reset[t];
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
            const int at = i * P * W;
            const N l = add_scaled<T, Complex, true>(dy, weight<T, Complex, Lanes>(C, i), al[i]);
            store_number(dC + at, add_scaled<T, Complex, true>(dy, after[i], load_number<T, Complex>(dC + at)));
            store_number(dB + at, add_scaled(du, l, load_number<T, Complex>(dB + at)));
            dx = add_real_part<T, Complex, true>(l, weight<T, Complex, Lanes>(B, i), dx);
            al[i] = conjugate_product(load_number<T, Complex>(history + Count * P * W + at), l);
            after[i] = load_number<T, Complex>(history + at);
            if (is_reset) {
                al[i] = {};
                continue;
            }
            const N wa = conjugate_product(after[i], al[i]);
            dA[i] = add_scaled(d, wa, dA[i]);
            dd = add_real_part<T, Complex, true>(wa, log2_rate[i], dd);
        }
        store(x + 3 * kSignal<T>, dx);
        store(x + 4 * kSignal<T>, dd);
        x -= W;
        history -= 2 * Count * P * W;
        dB -= of_B;
        dC -= of_C;
        B.data -= B.time;
        C.data -= C.time;
    }
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
        store_number(s.al + (n + i) * P * W, al[i]);
        store_number(s.dA + (n + i) * P * W, dA[i]);
    }
}

template <class T, bool Complex, int Count, bool Small, bool Lanes>
FASTITER_INLINE void visit_states(const Tile<T, Complex>& w, int64_t n, const States<T>& s) {
    recompute<T, Complex, Count, Small, Lanes>(w, n, s);
    visit<T, Complex, Count, Lanes>(w, n, s);
}

template <class T, bool Complex, bool Small, bool Lanes>
void visit_all(const Tile<T, Complex>& w, int64_t N, const States<T>& s) {
    constexpr int kMaxStates = kVisited<Complex>;
    w.lines->divide(w.steps * (N / kMaxStates + N % kMaxStates));
    int64_t n = 0;
    for (; n + kMaxStates <= N; n += kMaxStates) visit_states<T, Complex, kMaxStates, Small, Lanes>(w, n, s);
    for (; n < N; ++n) visit_states<T, Complex, 1, Small, Lanes>(w, n, s);
}

} // namespace fastiter::ssm::FASTITER_LEVEL
