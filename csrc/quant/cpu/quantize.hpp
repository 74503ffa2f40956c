// Shared by the `quant` kernels: the loop over an array, and the kernel lookup for a format.
#pragma once
#include "quant/cpu/rounding.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

// Results larger than this, in bytes, are written with streaming stores.
constexpr int64_t kStreamFrom = 8 << 20;

// y[i] = f(x[i], random[i]), vectorised; the last vector is zero-padded. Returns whether there was a NaN.
template <class T, bool Random, class F>
FASTITER_INLINE bool each_vector(const T* x, T* y, int64_t n, const uint32_t* random, bool stream, F f) {
    constexpr int W = lanes<T>;
    auto words = [&](int64_t i) {
        if constexpr (Random)
            return load_random<T>(random + i);
        else
            return random_words<T>{};
    };
    NanFlag<T> nan;
    auto two = [&](int64_t i, auto put) {
        const vec<T> a = load(x + i), b = load(x + i + W);
        nan.add(a, b);
        put(y + i, f(a, words(i)));
        put(y + i + W, f(b, words(i + W)));
    };
    int64_t i = 0;
    if (stream)
        for (; i + 2 * W <= n; i += 2 * W) two(i, [](T* p, vec<T> v) { stream_up_to(p, v, W); });
    else
        for (; i + 2 * W <= n; i += 2 * W) two(i, [](T* p, vec<T> v) { store(p, v); });
    for (; i < n; i += W) {
        const vec<T> a = load_up_to(x + i, n - i);
        nan.add(a, a);
        store_up_to(y + i, f(a, words(i)), n - i);
    }
    return nan.any();
}

template <class V, size_t... I> FASTITER_INLINE V exchanged(V v, size_t step, std::index_sequence<I...>) {
    switch (step) {
    case 1:
        return __builtin_shufflevector(v, v, int(I ^ 1)...);
    case 2:
        return __builtin_shufflevector(v, v, int(I ^ (2 % sizeof...(I)))...);
    case 4:
        return __builtin_shufflevector(v, v, int(I ^ (4 % sizeof...(I)))...);
    default:
        return __builtin_shufflevector(v, v, int(I ^ (8 % sizeof...(I)))...);
    }
}

template <class M> FASTITER_INLINE M larger(M a, M b) { return a > b ? a : b; }

// Maximum over all lanes, in all lanes
template <class T> FASTITER_INLINE mask<T> largest_of(mask<T> m) {
    constexpr auto all = std::make_index_sequence<size_t(lanes<T>)>();
#pragma GCC unroll 4
    for (size_t step = 1; step < size_t(lanes<T>); step *= 2) m = larger(m, exchanged(m, step, all));
    return m;
}

// Counters of a kernel that counts (Full). Other kernels only report whether there was a NaN, and leave it NaN.
template <class T> struct Counters {
    Count<T> nan, overflow, underflow;
    FASTITER_INLINE void add_to(QuantCounts& counts) const {
        counts.nan += nan.total();
        counts.overflow += overflow.total();
        counts.underflow += underflow.total();
    }
};

// Calls f<R>() with the rounding as a constant, for the modes of fixed point or of floating point.
template <class F> FASTITER_INLINE auto with_fixed_rounding(Rounding r, F f) {
    using enum Rounding;
    return with_constant<down, zero, half_up, half_zero, half_down, half_away, stochastic, even>(r, f);
}
template <class F> FASTITER_INLINE auto with_float_rounding(Rounding r, F f) {
    using enum Rounding;
    return with_constant<down, zero, half_away, up, away, stochastic, even>(r, f);
}

// Returns the kernel of a format; one function for each kind.
template <class T> QuantKernel<T> fixed_kernel(const QuantFormat&);
template <class T> QuantKernel<T> float_kernel(const QuantFormat&);
template <class T> QuantKernel<T> block_kernel(const QuantFormat&);
template <class T> QuantKernel<T> posit_kernel(const QuantFormat&);
template <class T> QuantKernel<T> table_kernel(const QuantFormat&);
template <class T> QuantKernel<T> powers_kernel(const QuantFormat&);
void wide_fixed(const QuantFormat&, const double*, double*, int64_t, const uint32_t*, QuantCounts&, bool);
void wide_float(const QuantFormat&, const double*, double*, int64_t, const uint32_t*, QuantCounts&, bool);
// Quantises integers x, already scaled, with one zero point per element.
template <class T>
void shifted_integers(const QuantFormat&, const T* x, const T* zero_point, T* y, int64_t n, const uint32_t* random,
                      QuantCounts&);

// Conversions between array elements and the type that kernels compute in
template <class T> void widen(const void* x, Element type, int64_t first, int64_t n, T* out);
template <class T> void narrow(const T* x, int64_t n, Element type, int64_t first, void* out);
template <class T> void store_codes(const QuantFormat&, const T* y, int64_t n, Element type, int64_t first, void* out);
void pack_codes(const PackJob&, Team);
void quant_gradient(const QuantGradientJob&, Team);

} // namespace fastiter::quant::FASTITER_LEVEL
