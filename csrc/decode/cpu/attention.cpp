// Rotary position embeddings, and attention of one query.
#include "core/cpu/sums.hpp"
#include "core/cpu/tile.hpp"
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

constexpr int kQueries = 4; // that read a key together

// The queries of a key head, with the state of their online softmax
template <class T> struct Queries {
    int64_t count, key_row, value_row; // rows are padded to kLine numbers
    T *q, *scores, *sums, *largest, *total;

    Queries(const Attention<T>& o, T* memory)
        : count(o.heads / o.key_heads), key_row(round_up(o.key_width, kLine)),
          value_row(round_up(o.value_width, kLine)) {
        q = memory;
        scores = q + count * key_row;
        sums = scores + count * kKeysTogether;
        largest = sums + count * value_row;
        total = largest + round_up(count, kLine);
    }
    static int64_t size(const Attention<T>& o) {
        const Queries all(o, nullptr);
        return all.total - static_cast<T*>(nullptr) + round_up(all.count, kLine);
    }
};

// scores[g][j] = q_g k_j for `COUNT` queries from g on, and up to a vector of keys
template <class T, int COUNT>
FASTITER_INLINE void multiply_keys(const Queries<T>& a, int64_t g, const T* keys, int64_t width, int64_t j,
                                   int64_t count) {
    constexpr int W = lanes<T>;
    vec<T> products[COUNT][W];
    for (int64_t i = 0; i < W; ++i) {
        const T* const k = keys + (j + min_of(i, count - 1)) * width;
        vec<T> sum[COUNT] = {};
        for_vectors<T>({0, width}, [&](int64_t d, int64_t n) {
            const vec<T> x = load_up_to(k + d, n);
#pragma GCC unroll 4
            for (int s = 0; s < COUNT; ++s) sum[s] = fma(x, load(a.q + (g + s) * a.key_row + d), sum[s]);
        });
        for (int s = 0; s < COUNT; ++s) products[s][i] = sum[s];
    }
    for (int s = 0; s < COUNT; ++s) store_up_to(a.scores + (g + s) * kKeysTogether + j, sums_of<T>(products[s]), count);
}

// Turns the scores of a query into weights of the values, relative to the largest score so far.
template <class T> void weigh(const Queries<T>& a, int64_t g, T cap, int64_t count) {
    T* const scores = a.scores + g * kKeysTogether;
    if (cap > 0) activate(Activation::softcap, cap, scores, scores, count);
    T largest = a.largest[g];
    for (int64_t j = 0; j < count; ++j) largest = scores[j] > largest ? scores[j] : largest;
    const T factor = scalar_exp(a.largest[g] - largest);
    vec<T> total{};
    for_vectors<T>({0, count}, [&](int64_t j, int64_t n) {
        const vec<T> weight = exp<T>(load_up_to(scores + j, n) - largest);
        store_up_to(scores + j, weight, n);
        total += first_of<T>(weight, n);
    });
    a.total[g] = a.total[g] * factor + sum_of<T>(total);
    a.largest[g] = largest;
    T* const sums = a.sums + g * a.value_row;
    if (factor != T(1))
        for_vectors<T>({0, a.value_row}, [&](int64_t d, int64_t) { store(sums + d, load(sums + d) * factor); });
}

// sums[g] += sum over j of scores[g][j] v_j
template <class T, int COUNT>
FASTITER_INLINE void add_values(const Queries<T>& a, int64_t g, const T* values, int64_t width, int64_t count) {
    for_vectors<T>({0, width}, [&](int64_t d, int64_t n) {
        vec<T> sum[COUNT];
        for (int s = 0; s < COUNT; ++s) sum[s] = load(a.sums + (g + s) * a.value_row + d);
        for (int64_t j = 0; j < count; ++j) {
            const vec<T> v = load_up_to(values + j * width + d, n);
#pragma GCC unroll 4
            for (int s = 0; s < COUNT; ++s) sum[s] = fma(v, a.scores[(g + s) * kKeysTogether + j], sum[s]);
        }
        for (int s = 0; s < COUNT; ++s) store(a.sums + (g + s) * a.value_row + d, sum[s]);
    });
}

template <class T> void copy(const T* from, int64_t count, T factor, T* to) {
    for_vectors<T>({0, count}, [&](int64_t i, int64_t n) { store_up_to(to + i, load_up_to(from + i, n) * factor, n); });
}

template <class T> void start(const Attention<T>& o, const Queries<T>& a, const T* q, int64_t first_head) {
    for_vectors<T>({0, a.count * a.key_row}, [&](int64_t i, int64_t) { store(a.q + i, vec<T>{}); });
    for_vectors<T>({0, a.count * a.value_row}, [&](int64_t i, int64_t) { store(a.sums + i, vec<T>{}); });
    constexpr T lowest = sizeof(T) == 4 ? T(-__FLT_MAX__) : T(-__DBL_MAX__);
    for (int64_t g = 0; g < a.count; ++g) {
        copy(q + g * o.key_width, o.key_width, o.scale, a.q + g * a.key_row);
        a.largest[g] = o.sinks ? o.sinks[first_head + g] : lowest;
        a.total[g] = o.sinks ? T(1) : T(0);
    }
}

// The queries of key head `head` of row b
template <class T> void attend(const Attention<T>& o, const Context<T>& c, int64_t b, int64_t head) {
    const Queries<T> a(o, c.scratch());
    const int64_t capacity = c.step.capacity, last = c.step.length, K = o.key_width, V = o.value_width;
    T* const keys = c.step.states[o.keys.index] + (b * o.key_heads + head) * capacity * K;
    T* const values = c.step.states[o.values.index] + (b * o.key_heads + head) * capacity * V;
    copy(c.of(o.k, b) + head * K, K, T(1), keys + last * K);
    copy(c.of(o.v, b) + head * V, V, T(1), values + last * V);
    start(o, a, c.of(o.q, b) + head * a.count * K, head * a.count);
    const int64_t first = max_of(c.step.firsts[b], o.window ? last + 1 - o.window : 0);
    for (int64_t j = first; j <= last; j += kKeysTogether) {
        const int64_t count = min_of(kKeysTogether, last + 1 - j);
        for_each_tile<kQueries>(a.count, [&](int64_t g, int queries) {
            with_count<kQueries>(queries, [&]<int COUNT>() {
                for_vectors<T>({0, count},
                               [&](int64_t i, int64_t n) { multiply_keys<T, COUNT>(a, g, keys + j * K, K, i, n); });
                for (int s = 0; s < COUNT; ++s) weigh(a, g + s, o.cap, count);
                add_values<T, COUNT>(a, g, values + j * V, V, count);
            });
        });
    }
    T* const out = c.of(o.out, b) + head * a.count * V;
    for (int64_t g = 0; g < a.count; ++g) copy(a.sums + g * a.value_row, V, T(1) / a.total[g], out + g * V);
}

} // namespace

template <class T> void run(const Attention<T>& o, const Context<T>& c) {
    const Range units = c.part(c.rows() * o.key_heads);
    for (int64_t unit = units.begin; unit < units.end; ++unit) attend(o, c, unit / o.key_heads, unit % o.key_heads);
}

template <class T> int64_t attention_scratch(const Attention<T>& o) { return Queries<T>::size(o); }

template <class T> void run(const Rope<T>& o, const Context<T>& c) {
    const Range heads = c.part(o.heads);
    const int64_t pairs = o.rotary / 2, step = o.interleaved ? 2 : 1, apart = o.interleaved ? 1 : pairs;
    for (int64_t b = 0; b < c.rows(); ++b) {
        const T *const cosine = c.step.angles + o.table * c.rows() + b * o.rotary, *const sine = cosine + pairs;
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            const T* const x = c.of(o.x, b) + h * o.width;
            T* const out = c.of(o.out, b) + h * o.width;
            for (int64_t i = 0; i < pairs; ++i) {
                const T first = x[i * step], second = x[i * step + apart];
                out[i * step] = first * cosine[i] - second * sine[i];
                out[i * step + apart] = second * cosine[i] + first * sine[i];
            }
            for (int64_t i = o.rotary; i < o.width; ++i) out[i] = x[i];
        }
    }
}

#define FASTITER_INSTANTIATE(T)                                \
    template int64_t attention_scratch(const Attention<T>&);   \
    template void run(const Attention<T>&, const Context<T>&); \
    template void run(const Rope<T>&, const Context<T>&);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::decode::FASTITER_LEVEL
