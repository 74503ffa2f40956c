// The delta rule step by step. The columns of a state are independent recurrences: a block of columns stays in the
// first-level cache, and one pass over it does the whole step, including the product S^T k of the next step.
#include "core/cpu/tile.hpp"
#include "delta/cpu/sequences.hpp"

namespace fastiter::delta::FASTITER_LEVEL {
namespace {

constexpr int kVectors = 4; // per block: their o, r and w stay in registers

constexpr int64_t kAhead = 4; // prefetch distance in steps

// Narrow blocks rotate over several accumulators to hide the latency of the additions.
template <int NV> constexpr int kSums = NV == 1 ? 4 : NV == 2 ? 2 : 1;

// S_i = g S_i + k_i w,  o += q_i S_i,  r += next_i S_i  for all rows i of S, where `next` is the next factor's k. S is
// unchanged without UPDATE, g = 1 without DECAY, and o is not computed without OUT.
template <class T, int NV, bool UPDATE, bool DECAY, bool OUT>
FASTITER_INLINE void apply_factor(T* S, int64_t K, T g, const T* k, const T* q, const T* next, const vec<T> (&w)[NV],
                                  vec<T> (&o)[NV], vec<T> (&r)[NV]) {
    constexpr int W = lanes<T>, SUMS = kSums<NV>;
    vec<T> os[SUMS][NV] = {}, rs[SUMS][NV] = {}, own[NV];
    for (int v = 0; v < NV; ++v) own[v] = w[v];
    // With sixteen registers, only the sums and one row of S fit; w is then loaded from memory for each row.
    const vec<T>* const ws = kVectorBytes == 64 ? own : w;
    // Loads precede stores, as the compiler must assume that S aliases k.
    auto line = [&](int64_t i, vec<T>(&oi)[NV], vec<T>(&ri)[NV]) __attribute__((always_inline)) {
        const vec<T> ki = broadcast(k[i]), qi = broadcast(q[i]), ni = broadcast(next[i]);
        T* const at = S + i * NV * W;
        vec<T> s[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            s[v] = load(at + v * W);
            if constexpr (DECAY) s[v] *= broadcast(g);
            if constexpr (UPDATE) s[v] = fma(ws[v], ki, s[v]);
        }
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            if constexpr (UPDATE) store_by_halves(at + v * W, s[v]);
            if constexpr (OUT) oi[v] = fma(s[v], qi, oi[v]);
            ri[v] = fma(s[v], ni, ri[v]);
        }
    };
    int64_t i = 0;
#pragma GCC unroll 2
    for (; i + SUMS <= K; i += SUMS)
#pragma GCC unroll 4
        for (int s = 0; s < SUMS; ++s) line(i + s, os[s], rs[s]);
    for (; i < K; ++i) line(i, os[0], rs[0]);
    for (int v = 0; v < NV; ++v) {
        for (int s = 1; s < SUMS; ++s) {
            os[0][v] += os[s][v];
            rs[0][v] += rs[s][v];
        }
        o[v] = os[0][v];
        r[v] = rs[0][v];
    }
}

template <class T, int NV> struct StepByStep {
    const DeltaForward<T>& p;
    const DeltaShape& s = p.shape;
    Sequence at;
    Columns c;
    T* S;
    bool streams; // streaming stores of e, which is read much later
    Team team;
    vec<T> o[NV] = {}, r[NV] = {};

    void write(T* to, const vec<T> (&x)[NV], bool past_caches = false) const {
        for (int v = 0; v < NV; ++v) put_up_to(to + c.begin + v * lanes<T>, x[v], c.count - v * lanes<T>, past_caches);
    }

    const T* key(int64_t t, int64_t m) const { return at.at(p.k, t, m); }

    // r = S^T k, summed in the order of apply_factor so that a continued sequence is bitwise the same
    void project(const T* k) { apply_factor<T, NV, false, false, false>(S, s.K, T(1), k, k, k, o, o, r); }

    // Consecutive steps of one head are too far apart in memory for the hardware prefetcher.
    void prefetch_step(int64_t t, int64_t m) const {
        if (t >= at.length) return;
        prefetch(key(t, m), s.K);
        prefetch(at.at(p.v, t, m) + c.begin, c.count);
        if (p.e && !streams) prefetch(p.e + ((at.step(s, t) * s.M + m) * s.N + at.head) * s.V + c.begin, c.count);
        if (m > 0) return;
        prefetch(at.at(p.q, t, 0), s.K);
        prefetch(at.at(p.o, t, 0) + c.begin, c.count);
    }

    FASTITER_INLINE void factor(int64_t t, int64_t m, T g, bool decays) {
        const int64_t index = (at.step(s, t) * s.M + m) * s.N + at.head;
        const T* value = at.at(p.v, t, m) + c.begin;
        vec<T> e[NV], w[NV];
        for (int v = 0; v < NV; ++v) {
            e[v] = fma(r[v], -g, load_up_to(value + v * lanes<T>, c.count - v * lanes<T>));
            w[v] = e[v] * broadcast(p.beta[index]);
        }
        if (p.e) write(p.e + index * s.V, e, streams);
        const T *k = key(t, m), *q = at.at(p.q, t, 0);
        const T* next = m + 1 < s.M ? key(t, m + 1) : t + 1 < at.length ? key(t + 1, 0) : k;
        const bool out = m + 1 == s.M;
        prefetch_step(t + kAhead, m);
        if (decays)
            out ? apply_factor<T, NV, true, true, true>(S, s.K, g, k, q, next, w, o, r)
                : apply_factor<T, NV, true, true, false>(S, s.K, g, k, q, next, w, o, r);
        else
            out ? apply_factor<T, NV, true, false, true>(S, s.K, g, k, q, next, w, o, r)
                : apply_factor<T, NV, true, false, false>(S, s.K, g, k, q, next, w, o, r);
    }

    void run() {
        read_lines(p.h0 ? p.h0 + at.state * s.K * s.V : nullptr, s.V, c, s.K, S);
        if (at.length > 0) project(key(0, 0));
        for (int64_t t = 0; t < at.length; ++t) {
            if (t % 16 == 0 && has_to_stop(team, 16 * s.M * s.K * NV * lanes<T>)) return;
            const bool restarts = at.restarts(t), decays = p.decay && !restarts;
            if (restarts) {
                clear(S, s.K * NV * lanes<T>);
                for (int v = 0; v < NV; ++v) r[v] = vec<T>{};
            }
            if (p.states && t % s.period == 0)
                write_lines(S, c, s.K, p.states + ((at.saved + t / s.period) * s.N + at.head) * s.K * s.V, s.V);
            const T g = decays ? p.decay[at.step(s, t) * s.N + at.head] : T(1);
            factor(t, 0, g, decays);
            for (int64_t m = 1; m < s.M; ++m) factor(t, m, T(1), false);
            write(at.at(p.o, t, 0), o);
        }
        write_lines(S, c, s.K, p.last + at.state * s.K * s.V, s.V);
        for (int v = 0; v < NV; ++v) o[v] = vec<T>{};
        for (int64_t t = at.length; !s.starts && t < s.T; ++t) write(at.at(p.o, t, 0), o);
        stream_fence();
    }
};

template <class T> int64_t state_size(const DeltaShape& s) { return round_up(s.K * kVectors * lanes<T>, 16); }

template <class T> int64_t step_blocks(const DeltaShape& s) { return column_blocks<T>(s.V, kVectors); }

template <class T> int64_t forward_blocks(const DeltaShape& s) {
    return s.chunk > 0 ? delta_chunk_blocks<T>(s) : step_blocks<T>(s);
}
template <class T> size_t forward_workspace(const DeltaForward<T>& p, int threads) {
    return p.shape.chunk > 0 ? delta_chunk_workspace(p, threads) : threads * state_size<T>(p.shape) * sizeof(T);
}
template <class T> void forward(const DeltaForward<T>& p, Team team) {
    if (p.shape.chunk > 0) return delta_chunk(p, team);
    const DeltaShape& s = p.shape;
    const int64_t blocks = step_blocks<T>(s);
    const bool streams = exceeds_caches<T>(s);
    T* S = static_cast<T*>(p.workspace) + team.id * state_size<T>(s);
    // Round-robin, as the blocks and heads of one row have equal length.
    for (int64_t unit = team.id; unit < s.rows * s.N * blocks; unit += team.size) {
        const Sequence at(s, unit / blocks / s.N, unit / blocks % s.N);
        const Columns c = columns_of<T>(s.V, kVectors, unit % blocks);
        with_count<kVectors>(int(c.vectors), [&]<int NV>() { StepByStep<T, NV>{p, s, at, c, S, streams, team}.run(); });
    }
}

template <class T>
constexpr KernelsOf<T> kernels_for = {
    forward_blocks<T>, forward_workspace<T>, forward<T>, delta_bwd_blocks<T>, delta_bwd_workspace<T>, delta_bwd<T>,
};

} // namespace

const Kernels kernels = {kernels_for<float>, kernels_for<double>};

} // namespace fastiter::delta::FASTITER_LEVEL
