// The gates and the normaliser of mLSTM, one head at a time: exponential input gates with a running maximum m, and the
// vector n, which accumulates the gated keys as the state accumulates their products with v.
#pragma once
#include "ssm/cpu/attention/attention.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// The gates of a tile, one number per step
template <class T> struct GateTile {
    T *f = nullptr, *i = nullptr, *m = nullptr; // e^(log sigmoid(f) + m' - m), e^(i - m), m; zeros beyond the last step
    T* slope = nullptr;                         // derivative of log sigmoid(f) with respect to f
    T* decays = nullptr;                        // 1 where m is log sigmoid(f) + m', 0 where it is i

    void take(Arena& memory) {
        for (T** x : {&f, &i, &m, &slope, &decays}) *x = memory.take<T>(kAttentionTile);
    }

    // Reads a tile; `before` is the maximum before it. Returns the maximum after it.
    FASTITER_NOINLINE T read(const Gates<T>& g, int64_t head, const Place& at, const uint8_t* reset, T before) const {
        read_numbers(g.f, head, at, f);
        read_numbers(g.i, head, at, i);
        for (int64_t t = 0; t < kAttentionTile; t += lanes<T>) {
            const vec<T> x = load(f + t);
            store(slope + t, sigmoid<T>(-x));
            store(f + t, log_sigmoid<T>(x));
        }
        for (int64_t t = 0; t < at.steps; ++t) {
            const T former = reset && reset[t] ? T(0) : before, sum = f[t] + former;
            decays[t] = sum > i[t] || sum != sum;
            before = m[t] = decays[t] ? sum : i[t];
            f[t] -= before - former; // including the rounding error of the sum, which would accumulate over the steps
        }
        for (int64_t t = 0; t < kAttentionTile; t += lanes<T>) {
            store(f + t, exp<T>(load(f + t)));
            store(i + t, exp<T>(load(i + t) - load(m + t)));
        }
        return before;
    }
};

// Multiplies the keys of a tile by the input gates, and writes the decays to the kernel's panel.
template <class T>
FASTITER_NOINLINE void apply_gates(const GateTile<T>& gates, const PanelTile<T>& k, const PanelTile<T>& decay,
                                   int64_t K, int64_t steps) {
    for (int64_t n = 0; n < K; n += lanes<T>)
        for (int64_t t = 0; t < steps; ++t) store(k.at(n, t), load(k.at(n, t)) * gates.i[t]);
    for (int64_t t = 0; t < steps; ++t) *decay.at(0, t) = gates.f[t];
}

// n = decay n + k for the steps of a tile, updating n (K) in place; products[t] = q n. `every` receives n after each
// step, unless it has no memory.
template <class T>
FASTITER_NOINLINE void advance_normalizer(const PanelTile<T>& q, const PanelTile<T>& k, const GateTile<T>& gates,
                                          const uint8_t* reset, int64_t K, int64_t steps, T* n,
                                          const PanelTile<T>& every, T* products) {
    for (int64_t t = 0; t < steps; ++t) {
        vec<T> sum{};
        for (int64_t c = 0; c < K; c += lanes<T>) {
            vec<T> x = reset && reset[t] ? vec<T>{} : load(n + c);
            x = fma(broadcast(gates.f[t]), x, load(k.at(c, t)));
            store(n + c, x);
            if (every.data) store(every.at(c, t), x);
            sum = fma(load(q.at(c, t)), x, sum);
        }
        products[t] = sum_of<T>(sum);
    }
}

// Replaces products[t] = q n by 1 / (max(|q n|, e^-m) + eps); signs[t], unless null, receives the derivative of |q n|
// with respect to q n, which is 0 where e^-m is larger.
template <class T>
FASTITER_NOINLINE void invert_normalizer(const GateTile<T>& gates, int64_t steps, double eps, T* products, T* signs) {
    for (int64_t t = steps; t < kAttentionTile; ++t) products[t] = 1;
    for (int64_t t = 0; t < kAttentionTile; t += lanes<T>) {
        const vec<T> product = load(products + t), smallest = exp<T>(-load(gates.m + t)), size = magnitude<T>(product);
        const mask<T> is_smallest = size <= smallest;
        if (signs) store(signs + t, select<T>(is_smallest, vec<T>{}, copy_sign<T>(broadcast(T(1)), product)));
        store(products + t, T(1) / (select<T>(is_smallest, smallest, size) + T(eps)));
    }
}

// Multiplies the vectors of a tile by one number per step.
template <class T>
FASTITER_NOINLINE void scale_steps(const PanelTile<T>& tile, int64_t units, int64_t steps, const T* factors) {
    for (int64_t n = 0; n < units; n += lanes<T>)
        for (int64_t t = 0; t < steps; ++t) store(tile.at(n, t), load(tile.at(n, t)) * factors[t]);
}

} // namespace fastiter::ssm::FASTITER_LEVEL
