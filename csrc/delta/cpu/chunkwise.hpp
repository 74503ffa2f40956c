// A chunk: consecutive steps of a sequence that are processed together, with their `n` = steps * M factors.
// docs/delta/theory.md has the formulas. A matrix over pairs of a factor and a later item has one row per factor; its columns
// are first the outputs, then the factors, each padded to whole vectors.
#pragma once
#include "delta/cpu/sequences.hpp"
#include "delta/cpu/tile.hpp"

namespace fastiter::delta::FASTITER_LEVEL {

constexpr int64_t kBlockColumns = 64; // columns of a state per block

template <class T> constexpr int64_t kBlockVectors = kBlockColumns / lanes<T>;

struct Span {
    int64_t first, steps;
};

// The chunk that begins at step `first`. It ends before a restart, and before the product of its decays exceeds `large`
// (the factors' updates would be small differences of large numbers) or drops below `small` (it may underflow although
// the state is large). A chunk of one step multiplies no decays.
template <class T> inline Span next_span(const DeltaShape& s, const Sequence& at, const T* decay, int64_t first) {
    constexpr T large = 4, small = sizeof(T) == 4 ? T(0x1p-60) : T(0x1p-500);
    const int64_t end = min_of(min_of(first + s.chunk, at.length), (first / s.period + 1) * s.period);
    T largest = 1, smallest = 1; // bounds of the magnitudes of all products that end here
    for (int64_t t = first; t < end; ++t) {
        if (t > first && at.restarts(t)) return {first, t - first};
        if (!decay) continue;
        const T g = decay[at.step(s, t) * s.N + at.head], size = g < 0 ? -g : g;
        largest = size == 0 ? T(1) : size * (largest > 1 ? largest : T(1));
        smallest = size == 0 ? T(1) : size * (smallest < 1 ? smallest : T(1));
        if (t > first && !(largest <= large && smallest >= small)) return {first, t - first};
    }
    return {first, end - first};
}

// Carves one allocation into arrays aligned to cache lines; without memory it only counts.
template <class T> struct Carver {
    T* memory;
    int64_t used = 0;
    T* take(int64_t count) {
        T* at = memory ? memory + used : nullptr;
        used += round_up(count, 64 / int64_t(sizeof(T)));
        return at;
    }
};

template <class T> inline void scale_lines(T* x, int64_t lines_, int64_t width, const T* by) {
    for (int64_t i = 0; i < lines_; ++i)
        for (int64_t v = 0; v < width; v += lanes<T>)
            store(x + i * width + v, load(x + i * width + v) * broadcast(by[i]));
}

// The chunk's keys, queries and decays, shared by all column blocks of the state
template <class T> struct Keys {
    const DeltaShape& s;
    int64_t width; // row length of k and q
    int64_t n = 0, steps = 0, outputs = 0, wide = 0;
    bool gated = false;
    T total = 1; // product of all decays
    T *k, *q, *across, *gate, *beta, *from_start, *to_end, *ratio, *gram, *weights;

    Keys(const DeltaShape& shape, Carver<T>& memory) : s(shape), width(round_up(shape.K, lanes<T>)) {
        const int64_t factors = s.chunk * s.M, both = round_up(s.chunk, lanes<T>) + round_up(factors, lanes<T>);
        q = k = memory.take((s.chunk + factors) * width);
        across = memory.take(s.K * both);
        gate = memory.take(factors);
        beta = memory.take(factors);
        from_start = memory.take(both);
        to_end = memory.take(round_up(factors, lanes<T>));
        ratio = memory.take(factors * both);
        gram = memory.take(factors * both);
        weights = memory.take(factors * both);
    }

    void copy_lines(const Steps<const T>& x, const Sequence& at, const Span& span, int64_t factors, T* to) const {
        for (int64_t t = 0; t < span.steps; ++t)
            for (int64_t m = 0; m < factors; ++m, to += width)
                for (int64_t i = 0; i < width; i += lanes<T>)
                    store(to + i, load_up_to(at.at(x, span.first + t, m) + i, s.K - i));
    }

    // Loads k, beta and the decays: each factor's own, and the product of the decays after it in the chunk.
    void load_keys(const Steps<const T>& keys, const T* betas, const T* decay, const Sequence& at, const Span& span) {
        steps = span.steps;
        n = steps * s.M;
        gated = decay;
        k = q + steps * width; // so that q and k are one matrix
        copy_lines(keys, at, span, s.M, k);
        const int64_t begin = at.step(s, span.first);
        for (int64_t j = 0; j < n; ++j) {
            beta[j] = betas[(begin * s.M + j) * s.N + at.head];
            const bool own = decay && j % s.M == 0 && !(j == 0 && at.restarts(span.first));
            gate[j] = own ? decay[(begin + j / s.M) * s.N + at.head] : T(1);
        }
        total = 1;
        for (int64_t j = n; j < round_up(n, lanes<T>); ++j) to_end[j] = T(0);
        for (int64_t j = n - 1; j >= 0; --j) {
            to_end[j] = total;
            total *= gate[j];
        }
    }

    // Loads the queries and computes all products of keys with queries and keys, and the decays between them.
    void load_queries(const Steps<const T>& queries, const Sequence& at, const Span& span) {
        outputs = round_up(steps, lanes<T>);
        wide = outputs + round_up(n, lanes<T>);
        copy_lines(queries, at, span, 1, q);
        transpose_lines(q, width, steps, s.K, across, wide);
        transpose_lines(k, width, n, s.K, across + outputs, wide);
        multiply<T>({.c = {gram, wide},
                     .x = {k, width},
                     .p = {across, wide},
                     .rows = n,
                     .vectors = wide / lanes<T>,
                     .terms = {s.K}});
        if (gated) load_ratios();
    }

    int64_t factor_of(int64_t output) const { return output * s.M + s.M - 1; }

    void load_ratios() {
        clear(from_start, wide);
        clear(ratio, n * wide);
        T product = 1;
        for (int64_t j = 0; j < n; ++j) from_start[outputs + j] = product *= gate[j];
        for (int64_t i = 0; i < steps; ++i) from_start[i] = from_start[outputs + factor_of(i)];
        for (int64_t j = n - 1; j >= 0; --j) {
            T* line = ratio + j * wide;
            line[outputs + j] = 1;
            for (int64_t c = j + 1; c < n; ++c) line[outputs + c] = gate[j + 1] * line[wide + outputs + c];
            for (int64_t i = j / s.M; i < steps; ++i) line[i] = line[outputs + factor_of(i)];
        }
    }

    // out = x times the decays in between; the columns of the factors are also multiplied by `sign`.
    void weigh(const T* x, T sign, T* out) const {
        for (int64_t j = 0; j < n * wide; j += wide)
            for (int64_t c = 0; c < wide; c += lanes<T>) {
                vec<T> y = load(x + j + c);
                if (gated) y *= load(ratio + j + c);
                store(out + j + c, c < outputs ? y : y * broadcast(sign));
            }
    }

    // Terms of the sums of an output over the factors before it (M more per step); of a factor over the outputs after
    // it, counted from the end; and of a factor over the factors before or after it.
    Terms before_output() const { return {n, s.M, 1, s.M}; }
    Terms after_factor() const { return {steps, 1, s.M, 1}; }
    Terms others() const { return {n, 1, 1, 0}; }
};

// View of a matrix (rows, columns) with both axes reversed
template <class T> FASTITER_INLINE Matrix<T> reversed(Matrix<T> x, int64_t rows, int64_t columns) {
    return {x.data + (rows - 1) * x.row + (columns - 1) * x.column, -x.row, -x.column};
}
// View of a matrix with its rows reversed
template <class T> FASTITER_INLINE Matrix<T> upward(Matrix<T> x, int64_t rows) {
    return {x.data + (rows - 1) * x.row, -x.row, x.column};
}

} // namespace fastiter::delta::FASTITER_LEVEL
