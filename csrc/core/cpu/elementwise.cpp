// The elementwise vector functions, and a read of an array at cache bandwidth.
#include "core/cpu/kernels.hpp"
#include "core/cpu/vmath.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

template <class T, Function F> FASTITER_INLINE vec<T> value(vec<T> x) {
    if constexpr (F == Function::exp) return exp<T>(x);
    if constexpr (F == Function::sigmoid) return sigmoid<T>(x);
    if constexpr (F == Function::softplus) return softplus<T>(x);
    if constexpr (F == Function::tanh) return tanh<T>(x);
    if constexpr (F == Function::log_sigmoid) return log_sigmoid<T>(x);
}

// f'(x) from f(x) or x, as `gradient` of the table defines it
template <class T, Function F> FASTITER_INLINE vec<T> slope(vec<T> saved) {
    const vec<T> one = broadcast(T(1));
    if constexpr (F == Function::exp) return saved;
    if constexpr (F == Function::sigmoid) return saved * (one - saved);
    if constexpr (F == Function::softplus) return select<T>(saved > T(20), one, sigmoid<T>(saved));
}

template <class T, Function F> void apply_function(const T* x, T* out, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<T>) store_up_to(out + i, value<T, F>(load_up_to(x + i, n - i)), n - i);
}

template <class T, Function F> void apply_gradient(const T* saved, const T* dy, T* dx, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<T>)
        store_up_to(dx + i, load_up_to(dy + i, n - i) * slope<T, F>(load_up_to(saved + i, n - i)), n - i);
}

template <class T> void gate(const T* y, const T* z, T* out, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<T>) {
        const vec<T> x = load_up_to(z + i, n - i);
        store_up_to(out + i, load_up_to(y + i, n - i) * (x * sigmoid<T>(x)), n - i);
    }
}

template <class T> void gate_gradient(const T* y, const T* z, const T* d, T* dy, T* dz, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<T>) {
        const vec<T> x = load_up_to(z + i, n - i), g = load_up_to(d + i, n - i), s = sigmoid<T>(x);
        const vec<T> slope = s * fma(x, T(1) - s, broadcast(T(1)));
        store_up_to(dz + i, g * load_up_to(y + i, n - i) * slope, n - i);
        store_up_to(dy + i, g * (x * s), n - i);
    }
}

template <class T> T read_stream(const T* x, int64_t n) {
    constexpr int W = lanes<T>, V = 8;
    vec<T> sum[V] = {};
    int64_t i = 0;
    for (; i + V * W <= n; i += V * W)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[v] += load(x + i + v * W);
    T total = 0;
    for (int v = 0; v < V; ++v)
        for (int j = 0; j < W; ++j) total += sum[v][j];
    for (; i < n; ++i) total += x[i];
    return total;
}

template <class T, size_t... F, size_t... G>
constexpr ElementwiseOf<T> table(std::index_sequence<F...>, std::index_sequence<G...>) {
    return {{apply_function<T, Function(F)>...},
            {apply_gradient<T, Function(G)>...},
            gate<T>,
            gate_gradient<T>,
            read_stream<T>};
}

template <class T>
constexpr ElementwiseOf<T> kernels_of =
    table<T>(std::make_index_sequence<kFunctions>{}, std::make_index_sequence<kWithGradient>{});

} // namespace

const Elementwise elementwise = {kernels_of<float>, kernels_of<double>};

} // namespace fastiter::FASTITER_LEVEL
