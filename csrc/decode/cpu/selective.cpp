// One step of the state spaces of Mamba and Mamba-2. Vectors are along the N states of a channel, which are contiguous;
// the sums of as many channels as a vector has lanes are added up together.
#include "core/cpu/sums.hpp"
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

// Channels whose exponentials hide each other's latency
template <class T> constexpr int kTogether = lanes<T> < 4 ? lanes<T> : 4;

// The vectors of B and C of a row: the same for many channels
template <class T> struct Pair {
    const T *B, *C;
};

// s = e^(d A) s + d u B for `Count` channels; returns the vectors whose sums are s C.
template <class T, int Count>
FASTITER_INLINE void advance(const T* A, Pair<T> in, int64_t N, const T* d, const T* du, T* state, vec<T>* sums) {
    vec<T> sum[Count] = {};
    for_vectors<T>({0, N}, [&](int64_t n, int64_t left) {
        const vec<T> B = load_up_to(in.B + n, left), C = load_up_to(in.C + n, left);
        vec<T> decay[Count];
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) decay[i] = exp<T>(load_up_to(A + i * N + n, left) * d[i]);
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) {
            T* const s = state + i * N + n;
            const vec<T> next = fma(decay[i], load_up_to(s, left), B * du[i]);
            store_up_to(s, next, left);
            sum[i] = add_product<T>(next, C, sum[i], left);
        }
    });
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) sums[i] = sum[i];
}

// The same for one factor of all N states
template <class T> FASTITER_INLINE vec<T> advance_scalar(T decay, Pair<T> in, int64_t N, T du, T* state) {
    vec<T> sum{};
    for_vectors<T>({0, N}, [&](int64_t n, int64_t left) {
        const vec<T> s = fma(load_up_to(state + n, left), decay, load_up_to(in.B + n, left) * du);
        store_up_to(state + n, s, left);
        sum = add_product<T>(s, load_up_to(in.C + n, left), sum, left);
    });
    return sum;
}

} // namespace

template <class T> void run(const Selective<T>& o, const Context<T>& c) {
    constexpr int W = lanes<T>;
    const int64_t N = o.B.size;
    for (int64_t b = 0; b < c.rows(); ++b) {
        const T *const u = c.of(o.u, b), *const dt = c.of(o.dt, b);
        const Pair<T> in{c.of(o.B, b), c.of(o.C, b)};
        T *const out = c.of(o.out, b), *const state = c.of(o.state, b);
        for_vectors<T>(c.numbers(o.out.size), [&](int64_t i, int64_t count) {
            alignas(64) T d[W], du[W];
            vec<T> sums[W] = {};
            const vec<T> x = load_up_to(u + i, count);
            const vec<T> steps = softplus<T>(load_up_to(dt + i, count) + load_up_to(o.bias + i, count));
            store(d, steps);
            store(du, steps * x);
            int64_t j = 0;
            for (; j + kTogether<T> <= count; j += kTogether<T>)
                advance<T, kTogether<T>>(o.A + (i + j) * N, in, N, d + j, du + j, state + (i + j) * N, sums + j);
            for (; j < count; ++j)
                advance<T, 1>(o.A + (i + j) * N, in, N, d + j, du + j, state + (i + j) * N, sums + j);
            store_up_to(out + i, fma(load_up_to(o.skip + i, count), x, sums_of<T>(sums)), count);
        });
    }
}

template <class T> void run(const Ssd<T>& o, const Context<T>& c) {
    constexpr int W = lanes<T>;
    const int64_t N = o.states, P = o.width;
    const Range heads = c.part(o.heads);
    for (int64_t b = 0; b < c.rows(); ++b)
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            const int64_t group = h / (o.heads / o.groups);
            const Pair<T> in{c.of(o.B, b) + group * N, c.of(o.C, b) + group * N};
            const T* const x = c.of(o.x, b) + h * P;
            T *const out = c.of(o.out, b) + h * P, *const state = c.of(o.state, b) + h * P * N;
            const vec<T> raw = softplus<T>(broadcast(c.of(o.dt, b)[h] + o.bias[h]));
            const T d = at_most<T>(at_least<T>(raw, o.lowest), o.highest)[0], decay = scalar_exp(d * o.A[h]);
            for_vectors<T>({0, P}, [&](int64_t i, int64_t count) {
                vec<T> sums[W] = {};
                const vec<T> inputs = load_up_to(x + i, count);
                for (int64_t j = 0; j < count; ++j)
                    sums[j] = advance_scalar<T>(decay, in, N, d * inputs[j], state + (i + j) * N);
                store_up_to(out + i, fma(inputs, o.skip[h], sums_of<T>(sums)), count);
            });
        }
}

#define FASTITER_INSTANTIATE(T)                                \
    template void run(const Selective<T>&, const Context<T>&); \
    template void run(const Ssd<T>&, const Context<T>&);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::decode::FASTITER_LEVEL
