// Things that the kernels of the operations share: their place in the team, addresses of parts, and activations.
#pragma once
#include "core/cpu/vmath.hpp"
#include "decode/cpu/erfc.hpp"
#include "decode/cpu/operations.hpp"

namespace fastiter::decode::FASTITER_LEVEL {

// The thread that runs an operation: part `index` of `count` of its work
template <class T> struct Context {
    const Step<T>& step;
    const Team& team;
    int index, count;

    int rows() const { return step.rows; }
    T* of(const Part& p, int64_t b) const {
        T* const base = p.is_own ? step.own + team.id * step.own_size : step.shared;
        return base + p.offset + b * p.row;
    }
    T* of(const StateRef& s, int64_t b) const { return step.states[s.index] + b * s.size; }
    T* scratch() const { return step.scratch + team.id * step.scratch_size; }
    Range part(int64_t total) const { return share(total, index, count); }
    // A share of `total` numbers in whole tiles
    Range numbers(int64_t total) const {
        const Range tiles = part(ceil_div(total, kTile));
        return {tiles.begin * kTile, min_of(tiles.end * kTile, total)};
    }
};

// Calls f(i, count) for the vectors of a range: at i, of `count` numbers.
template <class T, class F> FASTITER_INLINE void for_vectors(Range r, F f) {
    for (int64_t i = r.begin; i < r.end; i += lanes<T>) f(i, min_of(lanes<T>, r.end - i));
}

// The sum of the lanes, in a fixed order
template <class T> FASTITER_INLINE T sum_of(vec<T> v) {
    T total = 0;
    for (int j = 0; j < lanes<T>; ++j) total += v[j];
    return total;
}

template <class T> FASTITER_INLINE vec<T> root(vec<T> v) {
    for (int j = 0; j < lanes<T>; ++j)
        if constexpr (sizeof(T) == 4)
            v[j] = __builtin_sqrtf(v[j]);
        else
            v[j] = __builtin_sqrt(v[j]);
    return v;
}

// The first `count` lanes; the others are 0, even where they are NaN.
template <class T> FASTITER_INLINE vec<T> first_of(vec<T> x, int64_t count) {
    if (__builtin_expect(count >= lanes<T>, 1)) return x;
    alignas(64) T numbers[lanes<T>];
    store(numbers, x);
    return load_first(numbers, int(count));
}

// sum + x y over the first `count` lanes
template <class T> FASTITER_INLINE vec<T> add_product(vec<T> x, vec<T> y, vec<T> sum, int64_t count) {
    return fma(first_of<T>(x, count), y, sum);
}

template <class T> FASTITER_INLINE T scalar_exp(T x) { return exp<T>(broadcast(x))[0]; }

template <class T> FASTITER_INLINE vec<T> gelu_tanh(vec<T> x) {
    constexpr T slope = T(0.79788456080286535588), cubic = T(0.044715); // sqrt(2 / pi)
    const vec<T> inner = slope * fma(cubic * x * x, x, x);
    return T(0.5) * x * (T(1) + tanh<T>(inner));
}

template <class T, Activation A> FASTITER_INLINE vec<T> activated(vec<T> x, T cap) {
    if constexpr (A == Activation::none) return x;
    if constexpr (A == Activation::silu) return x * sigmoid<T>(x);
    if constexpr (A == Activation::sigmoid) return sigmoid<T>(x);
    if constexpr (A == Activation::gelu) return x * normal_cdf<T>(x);
    if constexpr (A == Activation::gelu_tanh) return gelu_tanh<T>(x);
    if constexpr (A == Activation::relu) return at_least<T>(x, 0);
    if constexpr (A == Activation::relu2) return at_least<T>(x, 0) * at_least<T>(x, 0);
    if constexpr (A == Activation::softplus) return softplus<T>(x);
    if constexpr (A == Activation::tanh) return tanh<T>(x);
    if constexpr (A == Activation::exp) return exp<T>(x);
    if constexpr (A == Activation::softcap) return cap * tanh<T>(x / cap);
    if constexpr (A == Activation::clip) return at_most<T>(at_least<T>(x, -cap), cap);
}

// Calls f.template operator()<A>() with the activation.
template <int A = 0, class F> FASTITER_INLINE void with_activation(Activation activation, F&& f) {
    if constexpr (A < kActivations) {
        if (int(activation) == A) return f.template operator()<Activation(A)>();
        with_activation<A + 1>(activation, f);
    }
}

// out[i] = activation(x[i]) for `count` numbers; out may be x.
template <class T> void activate(Activation activation, T cap, const T* x, T* out, int64_t count);

// out[i] = activation(a[i]) b[i]
template <class T> void gate(Activation activation, const T* a, const T* b, T* out, int64_t count);

// Scratch memory that a thread needs, in numbers
template <class T> int64_t linear_scratch(const Linear<T>&, int rows);
template <class T> int64_t experts_scratch(const Experts<T>&, int rows);
template <class T> int64_t route_scratch(const Route<T>&);
template <class T> int64_t attention_scratch(const Attention<T>&);

// The operations
template <class T> void run(const Embed<T>&, const Context<T>&);
template <class T> void run(const Linear<T>&, const Context<T>&);
template <class T> void run(const Norm<T>&, const Context<T>&);
template <class T> void run(const Conv<T>&, const Context<T>&);
template <class T> void run(const Gate<T>&, const Context<T>&);
template <class T> void run(const Activate<T>&, const Context<T>&);
template <class T> void run(const Decay<T>&, const Context<T>&);
template <class T> void run(const Add<T>&, const Context<T>&);
template <class T> void run(const Selective<T>&, const Context<T>&);
template <class T> void run(const Ssd<T>&, const Context<T>&);
template <class T> void run(const Delta<T>&, const Context<T>&);
template <class T> void run(const Rope<T>&, const Context<T>&);
template <class T> void run(const Attention<T>&, const Context<T>&);
template <class T> void run(const Route<T>&, const Context<T>&);
template <class T> void run(const Experts<T>&, const Context<T>&);
template <class T> void run(const Lru<T>&, const Context<T>&);
template <class T> void run(const MLstm<T>&, const Context<T>&);

} // namespace fastiter::decode::FASTITER_LEVEL
