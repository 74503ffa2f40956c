// What the kernels of the family `quant` share: the loop over an array, and who gives out a kernel for a format.
#pragma once
#include "round.hpp"

namespace fastiter::FASTITER_LEVEL {

// Results of more bytes are written past the caches.
constexpr int64_t kStreamFrom = 8 << 20;

// y[i] = f(x[i], random[i]) a vector at a time; the last one is filled up with zeros.
template <class T, bool Random, class F>
FASTITER_INLINE void each_vector(const T* x, T* y, int64_t n, const uint32_t* random, bool stream, F f) {
    constexpr int W = lanes<T>;
    auto words = [&](int64_t i) {
        if constexpr (Random)
            return load_random<T>(random + i);
        else
            return random_words<T>{};
    };
    int64_t i = 0;
    if (stream)
        for (; i + W <= n; i += W) stream_up_to(y + i, f(load(x + i), words(i)), W);
    else
        for (; i + W <= n; i += W) store(y + i, f(load(x + i), words(i)));
    if (i < n) store_first(y + i, f(load_first(x + i, int(n - i)), words(i)), int(n - i));
}

// The kernel for a format, one for each kind of format
template <class T> QuantKernel<T> fixed_kernel(const QuantFormat&);
void wide_fixed(const QuantFormat&, const double*, double*, int64_t, const uint32_t*, QuantCounts&, bool);

// Between the elements of an array and the numbers that kernels compute with
template <class T> void widen(const void* x, Element type, int64_t first, int64_t n, T* out);
template <class T> void narrow(const T* x, int64_t n, Element type, int64_t first, void* out);

} // namespace fastiter::FASTITER_LEVEL
