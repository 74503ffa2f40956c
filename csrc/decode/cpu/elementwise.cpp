// Operations on single numbers.
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {

template <class T> void activate(Activation activation, T cap, const T* x, T* out, int64_t count) {
    with_activation(activation, [&]<Activation A>() {
        for_vectors<T>({0, count}, [&](int64_t i, int64_t n) {
            store_up_to(out + i, activated<T, A>(load_up_to(x + i, n), cap), n);
        });
    });
}

template <class T> void gate(Activation activation, const T* a, const T* b, T* out, int64_t count) {
    with_activation(activation, [&]<Activation A>() {
        for_vectors<T>({0, count}, [&](int64_t i, int64_t n) {
            store_up_to(out + i, activated<T, A>(load_up_to(a + i, n), T(1)) * load_up_to(b + i, n), n);
        });
    });
}

template <class T> void run(const Gate<T>& o, const Context<T>& c) {
    const Range r = c.numbers(o.out.size);
    for (int64_t b = 0; b < c.rows(); ++b)
        gate(o.activation, c.of(o.a, b) + r.begin, (o.vector ? o.vector : c.of(o.b, b)) + r.begin,
             c.of(o.out, b) + r.begin, r.end - r.begin);
}

template <class T> void run(const Activate<T>& o, const Context<T>& c) {
    const Range r = c.numbers(o.out.size);
    for (int64_t b = 0; b < c.rows(); ++b)
        activate(o.activation, o.cap, c.of(o.x, b) + r.begin, c.of(o.out, b) + r.begin, r.end - r.begin);
}

template <class T> void run(const Decay<T>& o, const Context<T>& c) {
    for (int64_t b = 0; b < c.rows(); ++b) {
        const T* const x = c.of(o.x, b);
        T* const out = c.of(o.out, b);
        for_vectors<T>(c.numbers(o.out.size), [&](int64_t i, int64_t n) {
            const vec<T> d = softplus<T>(load_up_to(x + i, n) + load_up_to(o.bias + i, n));
            store_up_to(out + i, load_up_to(o.rate + i, n) * d, n);
        });
    }
}

template <class T> void run(const Add<T>& o, const Context<T>& c) {
    for (int64_t b = 0; b < c.rows(); ++b) {
        const T *const x = c.of(o.a, b), *const y = c.of(o.b, b);
        T* const out = c.of(o.out, b);
        for_vectors<T>(c.numbers(o.out.size), [&](int64_t i, int64_t n) {
            store_up_to(out + i, o.scale_a * load_up_to(x + i, n) + o.scale_b * load_up_to(y + i, n), n);
        });
    }
}

// s = a s + sqrt(1 - a^2) sigmoid(input gate) x with a = e^L and L = rate sigmoid(recurrent gate), in which
// 1 - e^2L = -tanh(L) (1 + e^2L) keeps the precision of small L. At position 0, s = sigmoid(input gate) x.
template <class T> void run(const Lru<T>& o, const Context<T>& c) {
    for (int64_t b = 0; b < c.rows(); ++b) {
        const T *const x = c.of(o.x, b), *const in = c.of(o.input_gate, b),
                       *const recurrent = c.of(o.recurrent_gate, b);
        T *const out = c.of(o.out, b), *const state = c.of(o.state, b);
        const bool starts = c.step.positions[b] == 0;
        for_vectors<T>(c.numbers(o.out.size), [&](int64_t i, int64_t n) {
            const vec<T> log_a = load_up_to(o.rate + i, n) * sigmoid<T>(load_up_to(recurrent + i, n));
            const vec<T> factor = root<T>(-tanh<T>(log_a) * (T(1) + exp<T>(log_a + log_a)));
            vec<T> s = sigmoid<T>(load_up_to(in + i, n)) * load_up_to(x + i, n);
            if (!starts) s = fma(exp<T>(log_a), load_up_to(state + i, n), factor * s);
            store_up_to(state + i, s, n);
            store_up_to(out + i, s, n);
        });
    }
}

#define FASTITER_INSTANTIATE(T)                                      \
    template void activate(Activation, T, const T*, T*, int64_t);    \
    template void gate(Activation, const T*, const T*, T*, int64_t); \
    template void run(const Gate<T>&, const Context<T>&);            \
    template void run(const Activate<T>&, const Context<T>&);        \
    template void run(const Decay<T>&, const Context<T>&);           \
    template void run(const Add<T>&, const Context<T>&);             \
    template void run(const Lru<T>&, const Context<T>&);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::decode::FASTITER_LEVEL
