// The elementwise vector functions, and a read of an array at cache bandwidth.
#include "core/cpu/kernels.hpp"
#include "core/cpu/vmath.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

template <class T, Function F> void apply_function(const T* x, T* out, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<T>) {
        vec<T> v = load_up_to(x + i, n - i);
        if constexpr (F == Function::exp) v = exp<T>(v);
        if constexpr (F == Function::sigmoid) v = sigmoid<T>(v);
        if constexpr (F == Function::tanh) v = tanh<T>(v);
        if constexpr (F == Function::log_sigmoid) v = log_sigmoid<T>(v);
        store_up_to(out + i, v, n - i);
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

template <class T>
constexpr ElementwiseOf<T> kernels_of = {
    {apply_function<T, Function::exp>, apply_function<T, Function::sigmoid>, apply_function<T, Function::tanh>,
     apply_function<T, Function::log_sigmoid>},
    read_stream<T>,
};

} // namespace

const Elementwise elementwise = {kernels_of<float>, kernels_of<double>};

} // namespace fastiter::FASTITER_LEVEL
