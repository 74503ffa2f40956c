// The delta rule backward, a chunk of steps at a time. The states before all chunks of a period are recomputed from the
// saved state and the saved e; then the chunks of the period run from last to first.
#include "delta/cpu/chunkwise.hpp"

namespace fastiter::delta::FASTITER_LEVEL {
namespace {
// Gradients are summed over the column blocks of a head. Either one thread runs the blocks in order and accumulates in
// place, or (`split`) every block writes its own copy; both sum in the same order.
template <class T> struct Sums {
    Steps<T> dq, dk;
    T *dbeta, *ddecay;
    bool accumulate;
};

template <class T> struct BackwardChunks {
    const DeltaBackward<T>& p;
    const DeltaShape& s;
    Keys<T> keys;
    const bool streams = exceeds_caches<T>(s) && delta_bwd_blocks<T>(s) == 1; // later blocks read what earlier wrote
    int64_t *starts, state_size;
    T *states, *dS, *w, *d_o, *de, *du, *w_across, *across, *dots, *by_S, *by_dS, *dq, *dk, *later, *small;
    Columns c{};
    int64_t row = 0; // row length of the state
    Sums<T> sums{};

    BackwardChunks(const DeltaBackward<T>& params, Carver<T>& memory)
        : p(params), s(params.shape), keys(params.shape, memory) {
        const int64_t block = kBlockVectors<T> * lanes<T>, factors = s.chunk * s.M;
        const int64_t after = round_up(factors, lanes<T>), both = round_up(s.chunk, lanes<T>) + after;
        state_size = s.K * block;
        starts = reinterpret_cast<int64_t*>(memory.take((s.period + 1) * int64_t(sizeof(int64_t) / sizeof(T))));
        states = memory.take(s.period * state_size);
        dS = memory.take(state_size);
        w = memory.take(factors * block);
        d_o = du = memory.take((s.chunk + factors) * block);
        de = memory.take(factors * block);
        w_across = memory.take(block * after);
        across = memory.take(block * both);
        dots = memory.take(factors * both);
        by_S = memory.take(s.K * both);
        by_dS = memory.take(s.K * after);
        dq = memory.take(s.chunk * keys.width);
        dk = memory.take(factors * keys.width);
        later = memory.take(both);
        small = memory.take(after);
    }

    // Index of the chunk's first factor among the factors of all steps and heads; the next factor's is N higher.
    int64_t factor(const Sequence& at, const Span& span) const { return at.step(s, span.first) * s.M * s.N + at.head; }

    // w = beta e
    void load_writes(const Sequence& at, const Span& span) {
        read_lines(p.e + factor(at, span) * s.V, s.N * s.V, c, keys.n, w);
        scale_lines(w, keys.n, row, keys.beta);
    }

    // Recomputes the state before each chunk of a period, which starts at a saved state; returns the number of chunks.
    int64_t load_states(const Sequence& at, int64_t begin, int64_t end) {
        const int64_t line = (at.saved + begin / s.period) * s.N + at.head;
        read_lines(p.states + line * s.K * s.V, s.V, c, s.K, states);
        int64_t chunks = 0;
        for (int64_t t = begin; t < end; ++chunks) {
            const Span span = next_span(s, at, p.decay, t);
            T* S = states + chunks * state_size;
            if (at.restarts(t)) clear(S, s.K * row);
            starts[chunks] = t;
            t += span.steps;
            starts[chunks + 1] = t;
            if (t >= end) continue;
            keys.load_keys(p.k, p.beta, p.decay, at, span);
            load_writes(at, span);
            if (keys.gated) scale_lines(w, keys.n, row, keys.to_end);
            multiply<T>({.c = {S + state_size, row},
                         .from = {S, row},
                         .keep = keys.total,
                         .x = {keys.k, 1, keys.width},
                         .p = {w, row},
                         .rows = s.K,
                         .vectors = c.vectors,
                         .terms = {keys.n}});
        }
        return chunks;
    }

    // Solves for de, the gradient of w, from everything later: the final state, the outputs and the later factors' own
    // r. du = -beta de is minus the gradient of v.
    void solve(const Sequence& at, const Span& span) {
        const int64_t n = keys.n;
        multiply<T>({.c = {de, row},
                     .x = {keys.k, keys.width},
                     .p = {dS, row},
                     .rows = n,
                     .vectors = c.vectors,
                     .terms = {s.K}});
        if (keys.gated) scale_lines(de, n, row, keys.to_end);
        const Matrix<T> up = upward<T>({de, row}, n);
        const Matrix<const T> weights{keys.weights, keys.wide}, own{keys.weights + keys.outputs, keys.wide};
        multiply<T>({.c = up,
                     .from = {up.data, up.row},
                     .x = reversed(weights, n, keys.steps),
                     .p = upward<const T>({d_o, row}, keys.steps),
                     .rows = n,
                     .vectors = c.vectors,
                     .terms = keys.after_factor()});
        for (int64_t j = 0; j < n; ++j) small[j] = -keys.beta[j];
        substitute<T>({.c = up,
                       .p = upward<T>({du, row}, n),
                       .x = reversed(own, n, n),
                       .scale = {small + n - 1, -1},
                       .rows = n,
                       .vectors = c.vectors});
        write_gradients_of_values(at, span);
    }

    void write_gradients_of_values(const Sequence& at, const Span& span) {
        const int64_t first = factor(at, span);
        for (int64_t j = 0; j < keys.n; ++j) {
            T* const to = at.at(p.dv, span.first + j / s.M, j % s.M) + c.begin;
            for (int64_t v = 0; v < row; v += lanes<T>)
                put_up_to(to + v, -load(du + j * row + v), c.count - v, streams);
        }
        row_dots(de, row, p.e + first * s.V + c.begin, s.N * s.V, keys.n, c.count, small);
        for (int64_t j = 0; j < keys.n; ++j) put(sums.dbeta + first + j * s.N, small[j]);
    }

    void put(T* to, T x) const { *to = sums.accumulate ? *to + x : x; }

    // Products of the state before the chunk and the cotangent after it with d_o, du and w, and of these with each
    // other
    void cross_products(const T* S) {
        const int64_t n = keys.n, wide = keys.wide, after = wide - keys.outputs;
        transpose_lines(d_o, row, keys.steps, c.count, across, wide);
        transpose_lines(du, row, n, c.count, across + keys.outputs, wide);
        transpose_lines(w, row, n, c.count, w_across, after);
        multiply<T>({.c = {dots, wide},
                     .x = {w, row},
                     .p = {across, wide},
                     .rows = n,
                     .vectors = wide / lanes<T>,
                     .terms = {c.count}});
        multiply<T>({.c = {by_S, wide},
                     .x = {S, row},
                     .p = {across, wide},
                     .rows = s.K,
                     .vectors = wide / lanes<T>,
                     .terms = {c.count}});
        multiply<T>({.c = {by_dS, after},
                     .x = {dS, row},
                     .p = {w_across, after},
                     .rows = s.K,
                     .vectors = after / lanes<T>,
                     .terms = {c.count}});
    }

    // Inner products of the state before the chunk with each output and factor (`later`) and with the cotangent after
    // it (returned), and of each factor's own update with that cotangent (`small`)
    T contributions(const T* S) {
        const int64_t wide = keys.wide, after = wide - keys.outputs;
        clear(later, wide);
        clear(small, after);
        vec<T> end{};
        for (int64_t i = 0; i < s.K; ++i) {
            const T *key = keys.across + i * wide, *own = key + keys.outputs;
            for (int64_t l = 0; l < wide; l += lanes<T>)
                store(later + l, fma(load(key + l), load(by_S + i * wide + l), load(later + l)));
            for (int64_t l = 0; l < after; l += lanes<T>)
                store(small + l, fma(load(own + l), load(by_dS + i * after + l), load(small + l)));
            for (int64_t v = 0; v < row; v += lanes<T>) end = fma(load(S + i * row + v), load(dS + i * row + v), end);
        }
        return sum_of(end);
    }

    // Decay gradient of each factor: <state before the step, cotangent after its decay>. `later` and `end` advance with
    // the state.
    void decay_gradients(const Sequence& at, const Span& span, const T* S) {
        const int64_t wide = keys.wide, first_step = at.step(s, span.first);
        T end = contributions(S);
        vec<T> lane{};
        for (int i = 0; i < lanes<T>; ++i) lane[i] = T(i);
        for (int64_t j = 0; j < keys.n; ++j) {
            const T *ratio = keys.ratio + j * wide, *gram = keys.gram + j * wide, *dot = dots + j * wide;
            const vec<T> gate = broadcast(keys.gate[j]);
            vec<T> sum{};
            for (int64_t l = 0; l < wide; l += lanes<T>) {
                // Entries before j are skipped, not multiplied by zero: they may be NaN.
                const int64_t first = l < keys.outputs ? j / s.M : keys.outputs + j;
                const vec<T> x = load(later + l);
                sum += select<T>(lane >= broadcast(T(first - l)), load(ratio + l) * x, vec<T>{});
                store(later + l, fma(gate, x, load(gram + l) * load(dot + l)));
            }
            if (j % s.M == 0) {
                const bool none = j == 0 && at.restarts(span.first);
                put(sums.ddecay + (first_step + j / s.M) * s.N + at.head,
                    none ? T(0) : sum_of(sum) + keys.to_end[j] * end);
            }
            end = keys.gate[j] * end + small[j];
        }
    }

    static T sum_of(vec<T> x) {
        T sum = x[0];
        for (int i = 1; i < lanes<T>; ++i) sum += x[i];
        return sum;
    }

    // dq = S d_o, dk = dS w + S du with S and dS at the step itself: S is the state before the chunk plus the chunk's
    // earlier updates, dS the cotangent after the chunk plus its later contributions.
    void gradients_of_keys() {
        const int64_t n = keys.n, wide = keys.wide, outputs = keys.outputs, after = wide - outputs, width = keys.width;
        for (int64_t i = 0; i < s.K; ++i)
            for (int64_t l = 0; l < wide; l += lanes<T>) {
                T* at = by_S + i * wide + l;
                vec<T> x = load(at);
                if (keys.gated) x *= load(keys.from_start + l);
                if (l >= outputs) {
                    vec<T> y = load(by_dS + i * after + l - outputs);
                    x += keys.gated ? y * load(keys.to_end + l - outputs) : y;
                }
                store(at, x);
            }
        transpose_lines(by_S, wide, s.K, keys.steps, dq, width);
        transpose_lines(by_S + outputs, wide, s.K, n, dk, width);
        if (keys.gated) keys.weigh(dots, T(1), dots);
        const Matrix<T> up = upward<T>({dk, width}, n);
        const Matrix<const T> to_outputs{dots, wide}, to_factors{dots + outputs, wide};
        const int64_t vectors = width / lanes<T>;
        multiply<T>({.c = {dq, width},
                     .from = {dq, width},
                     .x = {dots, 1, wide},
                     .p = {keys.k, width},
                     .rows = keys.steps,
                     .vectors = vectors,
                     .terms = keys.before_output()});
        multiply<T>({.c = up,
                     .from = {up.data, up.row},
                     .x = reversed(to_outputs, n, keys.steps),
                     .p = upward<const T>({keys.q, width}, keys.steps),
                     .rows = n,
                     .vectors = vectors,
                     .terms = keys.after_factor()});
        multiply<T>({.c = up,
                     .from = {up.data, up.row},
                     .x = reversed(to_factors, n, n),
                     .p = upward<const T>({keys.k, width}, n),
                     .rows = n,
                     .vectors = vectors,
                     .terms = keys.others()});
        multiply<T>({.c = {dk, width},
                     .from = {dk, width},
                     .x = {dots + outputs, 1, wide},
                     .p = {keys.k, width},
                     .rows = n,
                     .vectors = vectors,
                     .terms = keys.others()});
    }

    void put_lines(const T* from, const Sequence& at, const Span& span, int64_t factors, const Steps<T>& to) const {
        for (int64_t i = 0; i < span.steps * factors; ++i) {
            T* const line = at.at(to, span.first + i / factors, i % factors);
            for (int64_t l = 0; l < s.K; l += lanes<T>) {
                vec<T> x = load(from + i * keys.width + l);
                if (sums.accumulate) x += load_up_to(line + l, s.K - l);
                put_up_to(line + l, x, s.K - l, streams);
            }
        }
    }

    // dS before the chunk from dS after it
    void step_back(const Sequence& at, const Span& span) {
        if (keys.gated) {
            scale_lines(d_o, keys.steps, row, keys.from_start);
            scale_lines(du, keys.n, row, keys.from_start + keys.outputs);
        }
        multiply<T>({.c = {dS, row},
                     .from = {dS, row},
                     .keep = keys.total,
                     .x = {keys.q, 1, keys.width},
                     .p = {d_o, row},
                     .rows = s.K,
                     .vectors = c.vectors,
                     .terms = {keys.steps + keys.n}});
        if (at.restarts(span.first)) clear(dS, s.K * row);
    }

    void chunk(const Sequence& at, const Span& span, const T* S) {
        keys.load_keys(p.k, p.beta, p.decay, at, span);
        keys.load_queries(p.q, at, span);
        du = d_o + keys.steps * row; // as k follows q
        keys.weigh(keys.gram, T(1), keys.weights);
        load_writes(at, span);
        read_lines(p.d_o.data ? at.at(p.d_o, span.first, 0) : nullptr, p.d_o.time, c, keys.steps, d_o);
        solve(at, span);
        cross_products(S);
        if (keys.gated) decay_gradients(at, span, S);
        gradients_of_keys();
        put_lines(dq, at, span, 1, sums.dq);
        put_lines(dk, at, span, s.M, sums.dk);
        step_back(at, span);
    }

    // Steps past the end of a row have zero gradients.
    void clear_padding(const Sequence& at) {
        for (int64_t t = at.length; !s.starts && t < s.T; ++t) {
            const int64_t step = at.step(s, t) * s.N + at.head;
            if (p.decay && !sums.accumulate) sums.ddecay[step] = T(0);
            if (!sums.accumulate) clear(at.at(sums.dq, t, 0), s.K);
            for (int64_t m = 0; m < s.M; ++m) {
                const int64_t index = (at.step(s, t) * s.M + m) * s.N + at.head;
                clear(at.at(p.dv, t, m) + c.begin, c.count);
                if (sums.accumulate) continue;
                sums.dbeta[index] = T(0);
                clear(at.at(sums.dk, t, m), s.K);
            }
        }
    }

    void run(const Sequence& at, const Columns& columns, const Sums<T>& to, Team team) {
        c = columns;
        row = c.vectors * lanes<T>;
        sums = to;
        const int64_t offset = at.state * s.K * s.V;
        read_lines(p.dlast ? p.dlast + offset : nullptr, s.V, c, s.K, dS);
        for (int64_t end = at.length; end > 0;) {
            const int64_t begin = (end - 1) / s.period * s.period;
            for (int64_t i = load_states(at, begin, end) - 1; i >= 0; --i)
                chunk(at, {starts[i], starts[i + 1] - starts[i]}, states + i * state_size);
            if (has_to_stop(team, 8 * (end - begin) * s.M * s.K * c.vectors * lanes<T>)) return;
            end = begin;
        }
        write_lines(dS, c, s.K, p.dh0 ? p.dh0 + offset : nullptr, s.V);
        clear_padding(at);
        stream_fence();
    }
};

template <class T> int64_t memory_of(const DeltaBackward<T>& p) {
    Carver<T> count{nullptr};
    BackwardChunks<T>(p, count);
    return count.used;
}

// With `split`, separate sums for each column block b > 0, stored behind the threads' workspaces
template <class T> struct Copies {
    int64_t dq, dk, dbeta, ddecay;
    explicit Copies(const DeltaBackward<T>& p) {
        const DeltaShape& s = p.shape;
        const int64_t heads = (s.starts ? 1 : s.rows) * s.T * s.N;
        dq = heads * s.K;
        dk = heads * s.M * s.K;
        dbeta = heads * s.M;
        ddecay = p.decay ? heads : 0;
    }
    int64_t size() const { return dq + dk + dbeta + ddecay; }
    Sums<T> of(T* memory, const DeltaShape& s) const {
        auto contiguous = [&](T* x, int64_t M) {
            return Steps<T>{x, s.T * M * s.N * s.K, M * s.N * s.K, s.N * s.K, s.K};
        };
        T* const after = memory + dq + dk;
        return {contiguous(memory, 1), contiguous(memory + dq, s.M), after, after + dbeta, false};
    }
};

template <class T> void add_copies(T* to, const T* from, int64_t count, int64_t copies, int64_t apart, Team team) {
    for (int64_t i = count * team.id / team.size; i < count * (team.id + 1) / team.size; ++i)
        for (int64_t b = 0; b < copies; ++b) to[i] += from[b * apart + i];
}

// The same for lines of K numbers, M in each step; the lines of `to` need not be adjacent.
template <class T>
void add_copies(const Steps<T>& to, const Steps<T>& from, const DeltaShape& s, int64_t M, int64_t copies, int64_t apart,
                Team team) {
    const int64_t lines_ = (s.starts ? 1 : s.rows) * s.T * M * s.N;
    for (int64_t i = lines_ * team.id / team.size; i < lines_ * (team.id + 1) / team.size; ++i) {
        const int64_t head = i % s.N, m = i / s.N % M, t = i / s.N / M % s.T, row = i / s.N / M / s.T;
        T* const line = to.data + row * to.row + t * to.time + m * to.gate + head * to.head;
        add_copies(line, from.data + i * s.K, s.K, copies, apart, Team{});
    }
}

} // namespace

template <class T> int64_t delta_bwd_blocks(const DeltaShape& s) { return column_blocks<T>(s.V, kBlockVectors<T>); }

template <class T> size_t delta_bwd_workspace(const DeltaBackward<T>& p, int threads) {
    const int64_t copies = p.split ? (delta_bwd_blocks<T>(p.shape) - 1) * Copies<T>(p).size() : 0;
    return size_t(threads * memory_of(p) + copies) * sizeof(T);
}

template <class T> void delta_bwd(const DeltaBackward<T>& p, Team team) {
    const DeltaShape& s = p.shape;
    const int64_t each = memory_of(p), blocks = delta_bwd_blocks<T>(s), heads = s.rows * s.N;
    Carver<T> memory{static_cast<T*>(p.workspace) + team.id * each};
    BackwardChunks<T> work(p, memory);
    const Copies<T> copies(p);
    T* const apart = static_cast<T*>(p.workspace) + team.size * each;
    const int64_t together = p.split ? 1 : blocks;
    for (int64_t unit = team.id; unit < heads * blocks / together; unit += team.size)
        for (int64_t i = 0; i < together; ++i) {
            const int64_t head = p.split ? unit / blocks : unit, block = p.split ? unit % blocks : i;
            Sums<T> sums{p.dq, p.dk, p.dbeta, p.ddecay, block > 0};
            if (p.split && block > 0) sums = copies.of(apart + (block - 1) * copies.size(), s);
            work.run(Sequence(s, head / s.N, head % s.N), columns_of<T>(s.V, kBlockVectors<T>, block), sums, team);
        }
    if (!p.split) return;
    wait(team.barriers[0], team.size);
    const Sums<T> from = copies.of(apart, s);
    add_copies(p.dq, from.dq, s, 1, blocks - 1, copies.size(), team);
    add_copies(p.dk, from.dk, s, s.M, blocks - 1, copies.size(), team);
    add_copies(p.dbeta, from.dbeta, copies.dbeta, blocks - 1, copies.size(), team);
    add_copies(p.ddecay, from.ddecay, copies.ddecay, blocks - 1, copies.size(), team);
}

#define FASTITER_INSTANTIATE(T)                                        \
    template int64_t delta_bwd_blocks<T>(const DeltaShape&);           \
    template size_t delta_bwd_workspace(const DeltaBackward<T>&, int); \
    template void delta_bwd(const DeltaBackward<T>&, Team);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::delta::FASTITER_LEVEL
