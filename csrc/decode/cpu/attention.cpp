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
    T *q = nullptr, *scores = nullptr, *sums = nullptr, *largest = nullptr, *total = nullptr;

    explicit Queries(const Attention<T>& o)
        : count(o.heads / o.key_heads), rest(round_up(o.key_width - o.rest, kLine)),
          key_row(rest + round_up(o.rest, kLine)), value_row(round_up(o.value_width, kLine)) {}
    Queries(const Attention<T>& o, T* memory) : Queries(o) {
        q = memory;
        scores = q + count * key_row;
        sums = scores + count * kKeysTogether;
        largest = sums + count * value_row;
        total = largest + round_up(count, kLine);
    }
    int64_t size() const { return count * (key_row + kKeysTogether + value_row) + 2 * round_up(count, kLine); }
};

// Parts of keys, from the first one on, and where the queries' numbers for them begin
template <class T> struct Keys {
    const T* data;
    int64_t width, of_query;
};

// products[s lanes + i] = the vectors whose sums are q_s k_i, for `COUNT` queries from g on and `KEYS` keys
template <class T, int COUNT, int KEYS>
FASTITER_INLINE void multiply_some(const T* q, int64_t q_row, const T* const (&k)[KEYS], int64_t width,
                                   vec<T>* products) {
    vec<T> sum[COUNT][KEYS] = {};
    auto add = [&](int64_t d, auto read) __attribute__((always_inline)) {
        vec<T> x[KEYS];
#pragma GCC unroll 4
        for (int i = 0; i < KEYS; ++i) x[i] = read(k[i] + d);
#pragma GCC unroll 4
        for (int s = 0; s < COUNT; ++s) {
            const vec<T> y = load(q + s * q_row + d);
#pragma GCC unroll 4
            for (int i = 0; i < KEYS; ++i) sum[s][i] = fma(x[i], y, sum[s][i]);
        }
    };
    int64_t d = 0;
    for (; d + lanes<T> <= width; d += lanes<T>) add(d, [](const T* p) { return load(p); });
    if (d < width) add(d, [&](const T* p) { return load_first(p, int(width - d)); });
    for (int s = 0; s < COUNT; ++s)
        for (int i = 0; i < KEYS; ++i) products[s * lanes<T> + i] = sum[s][i];
}

// scores[g][j] = q_g k_j for `COUNT` queries from g on, and up to a vector of keys; or is increased by it
template <class T, int COUNT, bool ADDS>
FASTITER_INLINE void multiply_keys(const Queries<T>& a, int64_t g, Keys<T> keys, int64_t j, int64_t count) {
    constexpr int W = lanes<T>, KEYS = COUNT <= 2 && W >= 4 ? 4 : 2; // that share the loads of queries
    vec<T> products[COUNT][W];
    for (int64_t i = 0; i < W; i += KEYS) {
        const T* k[KEYS];
        for (int n = 0; n < KEYS; ++n) k[n] = keys.data + (j + min_of(i + n, count - 1)) * keys.width;
        multiply_some<T, COUNT, KEYS>(a.q + g * a.key_row + keys.of_query, a.key_row, k, keys.width, &products[0][i]);
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

// Vectors of values that are added together: their sums, one per query, are independent and fill the pipelines.
template <int COUNT> constexpr int kValues = (kVectorBytes == 64 ? 16 : 8) / (COUNT == 3 ? 4 : COUNT == 1 ? 2 : COUNT);

// sums[g] += sum over j of scores[g][j] v_j, for `COUNT` queries from g on and `VECTORS` vectors of the values; only the
// last one may be shorter.
template <class T, int COUNT, int VECTORS>
FASTITER_INLINE void add_vectors(const Queries<T>& a, int64_t g, const T* values, int64_t width, int64_t d,
                                 int64_t count) {
    constexpr int W = lanes<T>;
    const int64_t last = min_of(W, width - d - (VECTORS - 1) * W);
    vec<T> sum[COUNT][VECTORS];
    for (int s = 0; s < COUNT; ++s)
        for (int v = 0; v < VECTORS; ++v) sum[s][v] = load(a.sums + (g + s) * a.value_row + d + v * W);
    for (int64_t j = 0; j < count; ++j) {
        const T* const value = values + j * width + d;
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            const vec<T> x = v + 1 < VECTORS ? load(value + v * W) : load_up_to(value + v * W, last);
#pragma GCC unroll 4
            for (int s = 0; s < COUNT; ++s) sum[s][v] = fma(x, a.scores[(g + s) * kKeysTogether + j], sum[s][v]);
        }
    }
    for (int s = 0; s < COUNT; ++s)
        for (int v = 0; v < VECTORS; ++v) store(a.sums + (g + s) * a.value_row + d + v * W, sum[s][v]);
}

template <class T, int COUNT>
FASTITER_INLINE void add_values(const Queries<T>& a, int64_t g, const T* values, int64_t width, int64_t count) {
    constexpr int kMost = kValues<COUNT>;
    for (int64_t d = 0; d < width; d += kMost * lanes<T>)
        with_count<kMost>(int(min_of(kMost, ceil_div(width - d, lanes<T>))),
                          [&]<int VECTORS>() { add_vectors<T, COUNT, VECTORS>(a, g, values, width, d, count); });
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

template <class T> int64_t attention_scratch(const Attention<T>& o) { return Queries<T>(o).size(); }

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
