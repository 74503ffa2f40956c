// The delta rule forward, a chunk of steps at a time. All products with the state are matrix products; the interaction
// of the steps within a chunk is a triangular system in e.
#include "delta/cpu/chunkwise.hpp"

namespace fastiter::delta::FASTITER_LEVEL {
namespace {

template <class T> struct ChunkByChunk {
    const DeltaForward<T>& p;
    const DeltaShape& s;
    Keys<T> keys;
    T *S, *e, *w, *o;
    Columns c{};

    ChunkByChunk(const DeltaForward<T>& params, Carver<T>& memory)
        : p(params), s(params.shape), keys(params.shape, memory) {
        const int64_t block = kBlockVectors<T> * lanes<T>;
        S = memory.take(s.K * block);
        e = memory.take(s.chunk * s.M * block);
        w = memory.take(s.chunk * s.M * block);
        o = memory.take(s.chunk * block);
    }

    // e = v - (decay from the chunk's start) S^T k - the contributions of the earlier factors
    void solve(const Sequence& at, const Span& span) {
        const int64_t row = c.vectors * lanes<T>;
        multiply<T>({.c = {e, row},
                     .x = {keys.k, keys.width},
                     .p = {S, row},
                     .rows = keys.n,
                     .vectors = c.vectors,
                     .terms = {s.K}});
        for (int64_t j = 0; j < keys.n; ++j) {
            const T* value = at.at(p.v, span.first + j / s.M, j % s.M) + c.begin;
            const T minus_decay = keys.gated ? -keys.from_start[keys.outputs + j] : T(-1);
            for (int64_t v = 0; v < row; v += lanes<T>)
                store(e + j * row + v, fma(load(e + j * row + v), minus_decay, load_up_to(value + v, c.count - v)));
        }
        substitute<T>({.c = {e, row},
                       .p = {w, row},
                       .x = {keys.weights + keys.outputs, 1, keys.wide},
                       .scale = {keys.beta, 1},
                       .rows = keys.n,
                       .vectors = c.vectors});
        if (!p.e) return;
        const int64_t first = (at.step(s, span.first) * s.M * s.N + at.head) * s.V;
        write_lines(e, c, keys.n, p.e + first, s.N * s.V);
    }

    void write_outputs(const Sequence& at, const Span& span) {
        const int64_t row = c.vectors * lanes<T>;
        multiply<T>({.c = {o, row},
                     .x = {keys.q, keys.width},
                     .p = {S, row},
                     .rows = keys.steps,
                     .vectors = c.vectors,
                     .terms = {s.K}});
        if (keys.gated) scale_lines(o, keys.steps, row, keys.from_start);
        multiply<T>({.c = {o, row},
                     .from = {o, row},
                     .x = {keys.weights, 1, keys.wide},
                     .p = {w, row},
                     .rows = keys.steps,
                     .vectors = c.vectors,
                     .terms = keys.before_output()});
        write_lines(o, c, keys.steps, at.at(p.o, span.first, 0), p.o.time);
    }

    void chunk(const Sequence& at, const Span& span) {
        const int64_t row = c.vectors * lanes<T>;
        keys.load_keys(p.k, p.beta, p.decay, at, span);
        keys.load_queries(p.q, at, span);
        keys.weigh(keys.gram, T(-1), keys.weights);
        solve(at, span);
        write_outputs(at, span);
        if (keys.gated) scale_lines(w, keys.n, row, keys.to_end);
        multiply<T>({.c = {S, row},
                     .from = {S, row},
                     .keep = keys.total,
                     .x = {keys.k, 1, keys.width},
                     .p = {w, row},
                     .rows = s.K,
                     .vectors = c.vectors,
                     .terms = {keys.n}});
    }

    void run(const Sequence& at, const Columns& columns, Team team) {
        c = columns;
        const int64_t size = s.K * s.V;
        read_lines(p.h0 ? p.h0 + at.state * size : nullptr, s.V, c, s.K, S);
        for (int64_t t = 0; t < at.length;) {
            const Span span = next_span(s, at, p.decay, t);
            if (at.restarts(t)) clear(S, s.K * c.vectors * lanes<T>);
            if (p.states && t % s.period == 0)
                write_lines(S, c, s.K, p.states + ((at.saved + t / s.period) * s.N + at.head) * size, s.V);
            chunk(at, span);
            t += span.steps;
            if (has_to_stop(team, keys.n * (2 * s.K + keys.n) * c.vectors * lanes<T>)) return;
        }
        write_lines(S, c, s.K, p.last + at.state * size, s.V);
        read_lines<T>(nullptr, 0, c, 1, o);
        for (int64_t t = at.length; !s.starts && t < s.T; ++t) write_lines(o, c, 1, at.at(p.o, t, 0), 0);
    }
};

template <class T> int64_t memory_of(const DeltaForward<T>& p) {
    Carver<T> count{nullptr};
    ChunkByChunk<T>(p, count);
    return count.used;
}

} // namespace

template <class T> int64_t delta_chunk_blocks(const DeltaShape& s) { return column_blocks<T>(s.V, kBlockVectors<T>); }

template <class T> size_t delta_chunk_workspace(const DeltaForward<T>& p, int threads) {
    return size_t(threads * memory_of(p)) * sizeof(T);
}

template <class T> void delta_chunk(const DeltaForward<T>& p, Team team) {
    const DeltaShape& s = p.shape;
    Carver<T> memory{static_cast<T*>(p.workspace) + team.id * memory_of(p)};
    ChunkByChunk<T> work(p, memory);
    const int64_t blocks = delta_chunk_blocks<T>(s);
    for (int64_t unit = team.id; unit < s.rows * s.N * blocks; unit += team.size)
        work.run(Sequence(s, unit / blocks / s.N, unit / blocks % s.N),
                 columns_of<T>(s.V, kBlockVectors<T>, unit % blocks), team);
}

#define FASTITER_INSTANTIATE(T)                                         \
    template int64_t delta_chunk_blocks<T>(const DeltaShape&);          \
    template size_t delta_chunk_workspace(const DeltaForward<T>&, int); \
    template void delta_chunk(const DeltaForward<T>&, Team);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::delta::FASTITER_LEVEL
