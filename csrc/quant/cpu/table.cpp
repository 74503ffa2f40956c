// Formats given by a table of all numbers, with or without a scale per block, or (logarithmic) of the significands.
#include "quant/cpu/quantize.hpp"
#include "quant/cpu/significand.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

constexpr int kShort = 32; // tables up to this size are searched linearly

template <class T> struct Entry {
    vec<T> value;
    mask<T> index;
    FASTITER_INLINE vec<T> code() const { return __builtin_convertvector(index, vec<T>); }
};

// A table in one register with per-lane lookup, if the instruction set has a permutation for it.
template <class T> struct Tiny {
    static constexpr int kMax = 0;
    Tiny(const T*, const T*, int) {}
};
#if defined(__AVX512F__)
template <> struct Tiny<float> {
    static constexpr int kMax = 16;
    vec<float> thresholds, values;

    Tiny(const float* t, const float* v, int count) : thresholds(broadcast(__builtin_nanf(""))), values{} {
        if (count > kMax) return;
        values = load_first(v, count);
        for (int i = 0; i + 1 < count; ++i) thresholds[i] = t[i]; // no v reaches the other thresholds
    }
    FASTITER_INLINE Entry<float> find(vec<float> v) const {
        __m512i index = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int step = kMax / 2; step > 0; step /= 2) {
            const __m512i probe = _mm512_add_epi32(index, _mm512_set1_epi32(step - 1));
            const __m512 t = _mm512_permutexvar_ps(probe, (__m512)thresholds);
            const __mmask16 reached = _mm512_cmp_ps_mask((__m512)v, t, _CMP_GE_OQ);
            index = _mm512_mask_add_epi32(index, reached, index, _mm512_set1_epi32(step));
        }
        return {(vec<float>)_mm512_permutexvar_ps(index, (__m512)values), (mask<float>)index};
    }
};
#endif

// Finds the number of thresholds <= v, and the value with that index.
template <class T> struct Table {
    const T* thresholds;
    const T* values;
    int count; // number of values; there is one threshold less
    Tiny<T> tiny;

    explicit Table(const TableOfNumbers& t)
        : thresholds(static_cast<const T*>(t.thresholds)), values(static_cast<const T*>(t.values)), count(t.count),
          tiny(thresholds, values, count) {}

    FASTITER_INLINE Entry<T> find(vec<T> v) const {
        if constexpr (Tiny<T>::kMax > 0)
            if (count <= Tiny<T>::kMax) return tiny.find(v);
        vec<T> value = broadcast(values[0]);
        mask<T> index{};
        if (count <= kShort) {
            for (int i = 0; i + 1 < count; ++i) {
                const mask<T> reached = v >= thresholds[i];
                value = select<T>(reached, broadcast(values[i + 1]), value);
                index -= reached;
            }
            return {value, index};
        }
        for (int lane = 0; lane < lanes<T>; ++lane) {
            const T* at = thresholds;
            for (int64_t rest = count - 1; rest > 0;) { // binary search in `rest` thresholds from `at` on
                const int64_t half = (rest + 1) / 2;
                const bool reached = v[lane] >= at[half - 1];
                at = reached ? at + half : at;
                rest = reached ? rest - half : half - 1;
            }
            value[lane] = values[at - thresholds];
            index[lane] = at - thresholds;
        }
        return {value, index};
    }

    // Rounds stochastically to one of the two neighbours, with probability proportional to the distance; thresholds are
    // the values.
    FASTITER_INLINE Entry<T> find_random(vec<T> v, random_words<T> random) const {
        Entry<T> below{}, above{};
        const vec<T> inside = at_most<T>(at_least<T>(v, values[0]), values[count - 1]);
        below = find(inside);
        for (int lane = 0; lane < lanes<T>; ++lane) {
            const int next = int(min_of(int64_t(below.index[lane]) + 1, count - 1));
            above.value[lane] = values[next];
            above.index[lane] = next;
        }
        const vec<T> gap = above.value - below.value,
                     f = (inside - below.value) / select<T>(gap > T(0), gap, broadcast(T(1)));
        const mask<T> up = carries<T>(f, random);
        return {select<T>(up, above.value, below.value), up ? above.index : below.index};
    }
};

template <class T, bool Random, bool Full>
void table(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
           bool stream) {
    const Table<T> table(f.table);
    const vec<T> nan = broadcast(T(f.nan)), low = broadcast(table.values[0]),
                 high = broadcast(table.values[table.count - 1]);
    Counters<T> count;
    const bool any_nan = each_vector<T, Random>(x, y, n, random, stream, [&](vec<T> raw, random_words<T> words) {
        const vec<T> from = Full ? select<T>(raw != raw, nan, raw) : raw;
        Entry<T> entry;
        if constexpr (Random)
            entry = table.find_random(from, words);
        else
            entry = table.find(from);
        if constexpr (Full) {
            count.nan.add(raw != raw);
            const mask<T> out = (from < low) | (from > high);
            count.overflow.add(out);
            count.underflow.add((entry.value == T(0)) & (from != T(0)) & ~out);
        }
        return f.codes ? entry.code() : select<T>(from != from, from, entry.value);
    });
    if constexpr (Full) {
        count.add_to(counts);
        // The zeros that pad the last vector are not counted.
        if (table.values[0] > 0 || table.values[table.count - 1] < 0) counts.overflow -= round_up(n, lanes<T>) - n;
    } else
        counts.nan += any_nan;
}

// x / s through the table, times s, where s is the largest magnitude of the block. A NaN or an infinity makes its block
// NaN.
template <class T, bool Random>
void block_table(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts, bool) {
    const Table<T> table(f.table);
    const vec<T> stands_for_nan = broadcast(T(f.nan));
    Counters<T> count;
    for (int64_t i = 0; i < n; i += f.block.size) {
        const int64_t size = min_of(f.block.size, n - i);
        auto numbers = [&](int64_t j) {
            const vec<T> raw = load_up_to(x + i + j, size - j);
            return select<T>(raw != raw, stands_for_nan, raw);
        };
        mask<T> largest{}; // as bits: NaN's exceed those of infinity
        for (int64_t j = 0; j < size; j += lanes<T>) {
            const vec<T> raw = load_up_to(x + i + j, size - j);
            count.nan.add(raw != raw);
            largest = larger(largest, (mask<T>)magnitude_of<T>(numbers(j)));
        }
        const T magnitude = ((vec<T>)largest_of<T>(largest))[0];
        const bool bad = !(magnitude < T(__builtin_inf()));
        const T scale = bad ? T(__builtin_nan("")) : magnitude;
        if (f.block.scales) static_cast<T*>(f.block.scales)[i / f.block.size] = scale;
        const vec<T> divisor = broadcast(scale > 0 ? scale : T(1)), factor = broadcast(scale);
        for (int64_t j = 0; j < size; j += lanes<T>) {
            const vec<T> v = numbers(j) / divisor;
            Entry<T> entry;
            if constexpr (Random)
                entry = table.find_random(v, load_random<T>(random + i + j));
            else
                entry = table.find(v);
            const vec<T> index = bad ? vec<T>{} : entry.code(), value = fma(entry.value, factor, vec<T>{});
            count.overflow.add(magnitude_of<T>(numbers(j)) == T(__builtin_inf()));
            count.underflow.add((value == T(0)) & (numbers(j) != T(0)));
            store_up_to(y + i + j, f.codes ? index : value, size - j);
        }
    }
    count.add_to(counts);
}

// The number is m 2^e: the table rounds m, then the value is clamped to the range of the format.
template <class T, bool Full>
void logarithmic(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t*, QuantCounts& counts, bool stream) {
    const Table<T> table(f.table);
    const mask<T> exponents = all_bits<T>(bits_of_power<T>(kBias<T> + 1));
    const vec<T> one = broadcast(T(1)), largest = broadcast(T(f.small.largest)),
                 smallest = broadcast(T(f.small.smallest));
    const vec<T> negative = broadcast(T(f.small.negative)), nan = broadcast(T(f.nan)), zero{};
    const T steps = T(table.count - 1), first = T(f.small.min_exponent) * steps - 1;
    Counters<T> count;
    const bool any_nan = each_vector<T, false>(x, y, n, nullptr, stream, [&](vec<T> raw, random_words<T>) {
        const vec<T> from = Full ? select<T>(raw != raw, nan, raw) : raw, a = magnitude_of<T>(from);
        // Far outside of the range any number will do, as long as its exponent is a power of two.
        const vec<T> inside = min_keeping_nan(largest, max_keeping_nan(smallest * T(0.5), a));
        const mask<T> power = (mask<T>)inside & exponents;
        const Entry<T> entry = table.find((vec<T>)(((mask<T>)inside & ~exponents) | (mask<T>)one));
        const vec<T> value = entry.value * (vec<T>)power;
        const mask<T> gone = (value < smallest) | (a == zero) | (f.small.is_signed ? mask<T>{} : from < T(0));
        if constexpr (Full) {
            count.nan.add(raw != raw);
            const mask<T> negative_one = f.small.is_signed ? mask<T>{} : from < T(0);
            count.overflow.add((a >= T(f.small.over)) | negative_one);
            count.underflow.add((value < smallest) & (from != zero) & ~negative_one);
        }
        if (f.codes) {
            const vec<T> e = __builtin_convertvector((power >> kMantissa<T>)-kBias<T>, vec<T>);
            const vec<T> code = e * steps + entry.code() - first;
            return select<T>(gone, zero, select<T>(from < T(0), code + negative, code));
        }
        const vec<T> result = (vec<T>)((mask<T>)copy_sign<T>(value, from) & ~gone);
        return select<T>(from != from, from, result);
    });
    if constexpr (Full)
        count.add_to(counts);
    else
        counts.nan += any_nan;
}

} // namespace

template <class T> QuantKernel<T> table_kernel(const QuantFormat& f) {
    const bool random = f.rounding == Rounding::stochastic;
    if (f.kind == Kind::logarithmic) return f.count ? logarithmic<T, true> : logarithmic<T, false>;
    if (f.block.size > 0) return random ? block_table<T, true> : block_table<T, false>;
    if (random) return f.count ? table<T, true, true> : table<T, true, false>;
    return f.count ? table<T, false, true> : table<T, false, false>;
}
template QuantKernel<float> table_kernel<float>(const QuantFormat&);
template QuantKernel<double> table_kernel<double>(const QuantFormat&);

} // namespace fastiter::quant::FASTITER_LEVEL
