// Normalization of groups of numbers, with gates.
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

constexpr int kSums = 4; // independent sums hide the latency of an addition
constexpr int64_t kBlock = 256;

// The sum of f(i, count) over the vectors of `size` numbers; lanes beyond `count` must be 0.
template <class T, class F> FASTITER_INLINE T sum_over(int64_t size, F f) {
    constexpr int64_t W = lanes<T>;
    vec<T> sums[kSums] = {};
    int64_t i = 0;
    for (; i + kSums * W <= size; i += kSums * W)
#pragma GCC unroll 4
        for (int j = 0; j < kSums; ++j) sums[j] += f(i + j * W, W);
    for (; i < size; i += W) sums[0] += f(i, min_of(W, size - i));
    return sum_of<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T> struct Group {
    const T *x, *gate, *weight, *bias;
    T* out;
};

template <class T> void normalize(const Norm<T>& o, const Group<T>& g) {
    const T* x = g.x;
    if (g.gate && o.gate_first) {
        decode::FASTITER_LEVEL::gate(o.activation, g.gate, g.x, g.out, o.size);
        x = g.out;
    }
    T mean = 0;
    if (o.centers) mean = sum_over<T>(o.size, [&](int64_t i, int64_t n) { return load_up_to(x + i, n); }) / T(o.size);
    const T squares = sum_over<T>(o.size, [&](int64_t i, int64_t n) {
        const vec<T> centered = first_of<T>(load_up_to(x + i, n) - mean, n);
        return centered * centered;
    });
    const T factor = T(1) / root<T>(broadcast(squares / T(o.size) + o.eps))[0];
    for (int64_t first = 0; first < o.size; first += kBlock) {
        alignas(64) T block[kBlock]; // out may be the gate
        const int64_t count = min_of(kBlock, o.size - first);
        T* const y = g.gate && !o.gate_first ? block : g.out + first;
        for_vectors<T>({0, count}, [&](int64_t i, int64_t n) {
            vec<T> v = (load_up_to(x + first + i, n) - mean) * factor;
            if (g.weight) v *= load_up_to(g.weight + first + i, n);
            if (g.bias) v += load_up_to(g.bias + first + i, n);
            store_up_to(y + i, v, n);
        });
        if (y == block) decode::FASTITER_LEVEL::gate(o.activation, g.gate + first, block, g.out + first, count);
    }
}

} // namespace

template <class T> void run(const Norm<T>& o, const Context<T>& c) {
    const Range groups = c.part(o.x.size / o.size);
    for (int64_t b = 0; b < c.rows(); ++b)
        for (int64_t i = groups.begin; i < groups.end; ++i) {
            Group<T> g{};
            g.x = c.of(o.x, b) + i * o.size;
            g.out = c.of(o.out, b) + i * o.size;
            if (o.gate.size) g.gate = c.of(o.gate, b) + i * o.size;
            if (o.weight) g.weight = o.weight + i * o.step;
            if (o.bias) g.bias = o.bias + i * o.step_of_bias;
            normalize(o, g);
        }
}

template void run(const Norm<float>&, const Context<float>&);
template void run(const Norm<double>&, const Context<double>&);

} // namespace fastiter::decode::FASTITER_LEVEL
