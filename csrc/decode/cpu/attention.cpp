// Rotary position embeddings, and attention of one query.
#include "core/cpu/sums.hpp"
#include "core/cpu/tile.hpp"
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

constexpr int kQueries = 4; // that read a key together

// The queries of a key head, with the state of their online softmax
template <class T> struct Queries {
    int64_t count;
    int64_t rest;               // where a query's numbers for the rest of latent keys begin
    int64_t key_row, value_row; // padded to kLine numbers
    T *q, *scores, *sums, *largest, *total;

    Queries(const Attention<T>& o, T* memory)
        : count(o.heads / o.key_heads), rest(round_up(o.key_width - o.rest, kLine)),
          key_row(rest + round_up(o.rest, kLine)), value_row(round_up(o.value_width, kLine)) {
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

// Parts of keys, from the first one on, and where the queries' numbers for them begin
template <class T> struct Keys {
    const T* data;
    int64_t width, of_query;
};

// scores[g][j] = q_g k_j for `COUNT` queries from g on, and up to a vector of keys; or is increased by it
template <class T, int COUNT, bool ADDS>
FASTITER_INLINE void multiply_keys(const Queries<T>& a, int64_t g, Keys<T> keys, int64_t j, int64_t count) {
    constexpr int W = lanes<T>;
    vec<T> products[COUNT][W];
    for (int64_t i = 0; i < W; ++i) {
        const T* const k = keys.data + (j + min_of(i, count - 1)) * keys.width;
        vec<T> sum[COUNT] = {};
        for_vectors<T>({0, keys.width}, [&](int64_t d, int64_t n) {
            const vec<T> x = load_up_to(k + d, n);
#pragma GCC unroll 4
            for (int s = 0; s < COUNT; ++s)
                sum[s] = fma(x, load(a.q + (g + s) * a.key_row + keys.of_query + d), sum[s]);
        });
        for (int s = 0; s < COUNT; ++s) products[s][i] = sum[s];
    }
    for (int s = 0; s < COUNT; ++s) {
        T* const scores = a.scores + (g + s) * kKeysTogether + j;
        vec<T> sums = sums_of<T>(products[s]);
        if constexpr (ADDS) sums += load_up_to(scores, count);
        store_up_to(scores, sums, count);
    }
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
    const int64_t width = o.key_width - o.rest;
    for (int64_t g = 0; g < a.count; ++g) {
        copy(q + g * o.key_width, width, o.scale, a.q + g * a.key_row);
        copy(q + g * o.key_width + width, o.rest, o.scale, a.q + g * a.key_row + a.rest);
        a.largest[g] = o.sinks ? o.sinks[first_head + g] : lowest;
        a.total[g] = o.sinks ? T(1) : T(0);
    }
}

// Keys and values of a key head; with latent keys, the values are the keys, and what `values` holds is the rest of them.
template <class T> struct Entries {
    Keys<T> keys, rest;
    const T* values;

    // Appends the entry of this step, k and v.
    Entries(const Attention<T>& o, const Context<T>& c, int64_t b, int64_t head) {
        const int64_t K = o.key_width - o.rest, V = o.rest ? o.rest : o.value_width, at = b * o.key_heads + head;
        T* const first = c.step.states[o.keys.index] + at * c.step.capacity * K;
        T* const second = c.step.states[o.values.index] + at * c.step.capacity * V;
        copy(c.of(o.k, b) + head * K, K, T(1), first + c.step.length * K);
        copy(c.of(o.v, b) + head * V, V, T(1), second + c.step.length * V);
        keys = {first, K, 0};
        rest = {second, o.rest, round_up(K, kLine)};
        values = o.rest ? first : second;
    }
};

// `COUNT` queries from g on, and the keys from j on
template <class T, int COUNT>
void attend(const Attention<T>& o, const Queries<T>& a, int64_t g, const Entries<T>& entries, int64_t j,
            int64_t count) {
    for_vectors<T>({0, count}, [&](int64_t i, int64_t n) {
        const Keys<T> keys{entries.keys.data + j * entries.keys.width, entries.keys.width, 0};
        multiply_keys<T, COUNT, false>(a, g, keys, i, n);
        const Keys<T> rest{entries.rest.data + j * o.rest, o.rest, entries.rest.of_query};
        if (o.rest) multiply_keys<T, COUNT, true>(a, g, rest, i, n);
    });
    for (int s = 0; s < COUNT; ++s) weigh(a, g + s, o.cap, count);
    add_values<T, COUNT>(a, g, entries.values + j * o.value_width, o.value_width, count);
}

// The queries of key head `head` of row b
template <class T> void attend(const Attention<T>& o, const Context<T>& c, int64_t b, int64_t head) {
    const Queries<T> a(o, c.scratch());
    const Entries<T> entries(o, c, b, head);
    start(o, a, c.of(o.q, b) + head * a.count * o.key_width, head * a.count);
    const int64_t last = c.step.length, first = max_of(c.step.firsts[b], o.window ? last + 1 - o.window : 0);
    for (int64_t j = first; j <= last; j += kKeysTogether) {
        const int64_t count = min_of(kKeysTogether, last + 1 - j);
        for_each_tile<kQueries>(a.count, [&](int64_t g, int queries) {
            with_count<kQueries>(queries, [&]<int COUNT>() { attend<T, COUNT>(o, a, g, entries, j, count); });
        });
    }
    T* const out = c.of(o.out, b) + head * a.count * o.value_width;
    for (int64_t g = 0; g < a.count; ++g)
        copy(a.sums + g * a.value_row, o.value_width, T(1) / a.total[g], out + g * o.value_width);
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
