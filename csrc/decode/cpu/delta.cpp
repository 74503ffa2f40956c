// One step of the gated delta rule and of xLSTM's matrix memory. Vectors are along the columns of a head's state
// (K rows, V columns); a block of columns stays in the first-level cache between its two passes.
#include "core/cpu/tile.hpp"
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

constexpr int kVectors = 4; // the width of a block of columns

// Columns of a state, from its first row on
template <class T, int NV> struct Block {
    T* S;
    int64_t row, count;

    vec<T> read(const T* p, int v) const { return load_up_to(p + v * lanes<T>, left(v)); }
    void write(T* p, int v, vec<T> x) const { store_up_to(p + v * lanes<T>, x, left(v)); }
    // Only the last vector may be shorter.
    int64_t left(int v) const { return v + 1 < NV ? lanes<T> : count - v * lanes<T>; }
};

// The sum over i of f_i S_i
template <class T, int NV>
FASTITER_INLINE void project(const Block<T, NV>& block, int64_t K, const T* f, vec<T> (&sums)[NV]) {
    vec<T> sum[NV] = {};
    for (int64_t i = 0; i < K; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[v] = fma(block.read(block.S + i * block.row, v), f[i], sum[v]);
    for (int v = 0; v < NV; ++v) sums[v] = sum[v];
}

// S_i = g_i S_i + k_i e for all rows i; returns the sum over i of q_i S_i. g has one number, or one per row.
template <class T, int NV, bool PerRow>
FASTITER_INLINE void update(const Block<T, NV>& block, int64_t K, const T* g, const T* k, const T* q,
                            const vec<T> (&e)[NV], vec<T> (&sums)[NV]) {
    vec<T> sum[NV] = {};
    const vec<T> decay = broadcast(g[0]);
    for (int64_t i = 0; i < K; ++i) {
        T* const row = block.S + i * block.row;
        const vec<T> factor = PerRow ? broadcast(g[i]) : decay, ki = broadcast(k[i]), qi = broadcast(q[i]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            const vec<T> s = fma(ki, e[v], factor * block.read(row, v));
            block.write(row, v, s);
            sum[v] = fma(qi, s, sum[v]);
        }
    }
    for (int v = 0; v < NV; ++v) sums[v] = sum[v];
}

// Calls f(block, first column) for blocks of columns.
template <class T, class F> FASTITER_INLINE void for_blocks(T* S, int64_t V, F f) {
    for (int64_t at = 0; at < V; at += kVectors * lanes<T>) {
        const int64_t count = min_of(V - at, kVectors * lanes<T>);
        with_count<kVectors>(int(ceil_div(count, lanes<T>)), [&]<int NV>() { f(Block<T, NV>{S + at, V, count}, at); });
    }
}

// to = scale x, or with `normalizes` scale x / sqrt(sum of squares + eps)
template <class T> void scaled(const T* x, int64_t count, bool normalizes, T eps, T scale, T* to) {
    T factor = scale;
    if (normalizes) {
        vec<T> sum{};
        for_vectors<T>({0, count}, [&](int64_t i, int64_t n) {
            const vec<T> v = load_up_to(x + i, n);
            sum = fma(v, v, sum);
        });
        factor = scale / root<T>(broadcast(sum_of<T>(sum) + eps))[0];
    }
    for_vectors<T>({0, count}, [&](int64_t i, int64_t n) { store_up_to(to + i, load_up_to(x + i, n) * factor, n); });
}

// Per value head: the normalized q and k, the decays, and the products of decays and k
template <class T> struct Factors {
    T *q, *k, *g, *gk;
    T beta;

    Factors(const Delta<T>& o, const Context<T>& c, int64_t b, int64_t h) {
        const int64_t K = o.key_width, row = round_up(K, kLine), key = h * o.key_heads / o.value_heads;
        q = c.scratch();
        k = q + row;
        g = k + row;
        gk = g + row;
        beta = c.of(o.beta, b)[h];
        scaled(c.of(o.q, b) + key * K, K, o.normalizes, o.eps, o.scale, q);
        scaled(c.of(o.k, b) + key * K, K, o.normalizes, o.eps, T(1), k);
        const T* const decay = c.of(o.decay, b) + (o.per_key ? h * K : h);
        for_vectors<T>({0, o.per_key ? K : 1},
                       [&](int64_t i, int64_t n) { store_up_to(g + i, exp<T>(load_up_to(decay + i, n)), n); });
        for_vectors<T>({0, K}, [&](int64_t i, int64_t n) {
            const vec<T> factor = o.per_key ? load_up_to(g + i, n) : broadcast(g[0]);
            store_up_to(gk + i, factor * load_up_to(k + i, n), n);
        });
    }
};

} // namespace

template <class T> void run(const Delta<T>& o, const Context<T>& c) {
    const int64_t K = o.key_width, V = o.value_width;
    const Range heads = c.part(o.value_heads);
    for (int64_t b = 0; b < c.rows(); ++b)
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            const Factors<T> f(o, c, b, h);
            const T* const value = c.of(o.v, b) + h * V;
            T* const out = c.of(o.out, b) + h * V;
            for_blocks(c.of(o.state, b) + h * K * V, V, [&]<int NV>(const Block<T, NV>& block, int64_t at) {
                vec<T> r[NV], e[NV], y[NV];
                project(block, K, f.gk, r);
                for (int v = 0; v < NV; ++v) e[v] = f.beta * (block.read(value + at, v) - r[v]);
                if (o.per_key)
                    update<T, NV, true>(block, K, f.g, f.k, f.q, e, y);
                else
                    update<T, NV, false>(block, K, f.g, f.k, f.q, e, y);
                for (int v = 0; v < NV; ++v) block.write(out + at, v, y[v]);
            });
        }
}

namespace {

// The normalizer n = F n + I k; returns the sum of q n.
template <class T> T advance_normalizer(const T* q, const T* k, int64_t K, T F, T I, T* n) {
    vec<T> sum{};
    for_vectors<T>({0, K}, [&](int64_t i, int64_t count) {
        const vec<T> next = fma(load_up_to(k + i, count), I, load_up_to(n + i, count) * F);
        store_up_to(n + i, next, count);
        sum = add_product<T>(next, load_up_to(q + i, count), sum, count);
    });
    return sum_of<T>(sum);
}

template <class T> void advance_head(const MLstm<T>& o, const Context<T>& c, int64_t b, int64_t h) {
    const int64_t K = o.key_width, V = o.value_width;
    T *const q = c.scratch(), *const k = q + round_up(K, kLine), *const m = c.of(o.maximum, b) + h;
    const vec<T> log_f = log_sigmoid<T>(broadcast(c.of(o.f, b)[h]));
    const T i = c.of(o.i, b)[h], kept = log_f[0] + *m;
    const T next = kept > i || kept != kept ? kept : i;
    const T F = scalar_exp(kept - next), I = scalar_exp(i - next);
    *m = next;
    const T* const keys = c.of(o.k, b) + h * K;
    scaled(c.of(o.q, b) + h * K, K, false, T(0), o.scale, q);
    scaled(keys, K, false, T(0), I, k);
    const T sum = advance_normalizer(q, keys, K, F, I, c.of(o.normalizer, b) + h * K);
    const T size = sum < 0 ? -sum : sum, least = scalar_exp(-next);
    const T divisor = (size > least || size != size ? size : least) + o.eps;
    const T* const value = c.of(o.v, b) + h * V;
    T* const out = c.of(o.out, b) + h * V;
    for_blocks(c.of(o.memory, b) + h * K * V, V, [&]<int NV>(const Block<T, NV>& block, int64_t at) {
        vec<T> x[NV], y[NV];
        for (int v = 0; v < NV; ++v) x[v] = block.read(value + at, v);
        update<T, NV, false>(block, K, &F, k, q, x, y);
        for (int v = 0; v < NV; ++v) block.write(out + at, v, y[v] / divisor);
    });
}

} // namespace

template <class T> void run(const MLstm<T>& o, const Context<T>& c) {
    const Range heads = c.part(o.heads);
    for (int64_t b = 0; b < c.rows(); ++b)
        for (int64_t h = heads.begin; h < heads.end; ++h) advance_head(o, c, b, h);
}

#define FASTITER_INSTANTIATE(T)                            \
    template void run(const Delta<T>&, const Context<T>&); \
    template void run(const MLstm<T>&, const Context<T>&);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::decode::FASTITER_LEVEL
