// The passes of linear attention with a correction of rank one, S = decay S + b w^T + k v^T with w = S'^T a for the
// state S' before the step. A step reads w before it writes, so a pass over the state makes one step and sums up the
// next w.
#pragma once
#include "ssm/cpu/attention.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// Blocks of columns that share the numbers of a step
constexpr int kBlocksTogether = 2;

// The arguments of a step, for neighbouring blocks of columns: panels at it, `next_a` at the step that follows (any
// panel where there is none); w is that of this step and becomes that of the next.
template <class T> struct StepPass {
    const T *q, *k, *b, *decay, *next_a, *v;
    T *o, *w;
    int64_t K, state_block; // from a block of the state to the next
};

// Calls f(panel offset, rows in it, first row) for the panels of K rows.
template <class F> FASTITER_INLINE void each_panel(int64_t K, F f) {
    for (int64_t from = 0; from < K; from += kPanelWidth)
        f(from / kPanelWidth * kPanelSize, min_of(kPanelWidth, K - from));
}

// w = S^T a for neighbouring blocks of columns
template <class T, int Blocks>
FASTITER_NOINLINE void read_state(const T* a, int64_t K, const T* state, int64_t state_block, T* w) {
    constexpr int W = lanes<T>, C = kColumnVectors;
    for (int i = 0; i < Blocks; ++i) {
        vec<T> sum[C]{};
        const T* row = state + i * state_block;
        each_panel(K, [&](int64_t panel, int64_t rows) {
            for (int64_t n = 0; n < rows; ++n, row += kColumns<T>)
                for (int c = 0; c < C; ++c) sum[c] = fma(broadcast(a[panel + n]), load(row + c * W), sum[c]);
        });
        for (int c = 0; c < C; ++c) store(w + (i * C + c) * W, sum[c]);
    }
}

// One step. Tied: b is k, so that both corrections are one, k (v + w)^T.
template <class T, int Blocks, Decay D, bool Tied>
FASTITER_NOINLINE void advance_corrected(const StepPass<T>& p, T* state, Upcoming& upcoming) {
    constexpr int W = lanes<T>, C = kColumnVectors, N = Blocks * C;
    vec<T> v[N], w[N], o[N], next[N];
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) {
        v[c] = load(p.v + c * W), w[c] = load(p.w + c * W), o[c] = next[c] = vec<T>{};
        if (Tied) v[c] += w[c];
    }
    each_panel(p.K, [&](int64_t panel, int64_t rows) {
        const T *q = p.q + panel, *k = p.k + panel, *b = p.b + panel, *a = p.next_a + panel;
        const T* decay = D == Decay::vector ? p.decay + panel : p.decay;
        for (int64_t n = 0; n < rows; ++n, state += kColumns<T>) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            const vec<T> qn = broadcast(q[n]), kn = broadcast(k[n]), an = broadcast(a[n]);
            // All loads of a row come before its stores: rows of neighbouring blocks may be a multiple of the page size
            // apart, and a load then waits for a store before it.
            vec<T> S[N];
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) S[c] = load(state + c / C * p.state_block + c % C * W);
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) {
                if constexpr (D != Decay::none) S[c] = broadcast(decay[D == Decay::vector ? n : 0]) * S[c];
                if constexpr (!Tied) S[c] = fma(broadcast(b[n]), w[c], S[c]);
                S[c] = fma(kn, v[c], S[c]);
                o[c] = fma(qn, S[c], o[c]);
                next[c] = fma(an, S[c], next[c]);
            }
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) store(state + c / C * p.state_block + c % C * W, S[c]);
        }
    });
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) store(p.o + c * W, o[c]), store(p.w + c * W, next[c]);
}

// The arguments of a step backward; those with `later` are of the step that follows, whose decay and a have yet to be
// applied to P: P = decay P + a dw.
template <class T> struct StepGradient {
    const T *q, *k, *b, *later_decay, *later_a, *d_o;
    T *dv, *dw;
    int64_t K;
};

// dw = P^T b and dv = P^T k after P += q do^T; `dw` is that of the step that follows and becomes that of this one. With
// Later false there is no step that follows, or its state was reset.
template <class T, Decay D, bool Later>
FASTITER_NOINLINE void visit_corrected(const StepGradient<T>& p, T* P, vec<T>* dw) {
    constexpr int W = lanes<T>, C = kColumnVectors;
    vec<T> d_o[C], dv[C], next[C];
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) d_o[c] = load(p.d_o + c * W), dv[c] = next[c] = vec<T>{};
    each_panel(p.K, [&](int64_t panel, int64_t rows) {
        const T *q = p.q + panel, *k = p.k + panel, *b = p.b + panel;
        const T* a = Later ? p.later_a + panel : nullptr;
        const T* decay = Later && D == Decay::vector ? p.later_decay + panel : p.later_decay;
        for (int64_t n = 0; n < rows; ++n, P += kColumns<T>) {
            const vec<T> qn = broadcast(q[n]), kn = broadcast(k[n]), bn = broadcast(b[n]);
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) {
                vec<T> row = load(P + c * W);
                if constexpr (Later && D != Decay::none) row = broadcast(decay[D == Decay::vector ? n : 0]) * row;
                if constexpr (Later) row = fma(broadcast(a[n]), dw[c], row);
                row = fma(qn, d_o[c], row);
                dv[c] = fma(kn, row, dv[c]);
                next[c] = fma(bn, row, next[c]);
                store(P + c * W, row);
            }
        }
    });
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c) store(p.dv + c * W, dv[c]), store(p.dw + c * W, next[c]), dw[c] = next[c];
}

// P = decay P + a dw: the gradient of the state before a step from that after it
template <class T, Decay D>
FASTITER_NOINLINE void leave_step(const T* decay, const T* a, int64_t K, const vec<T>* dw, T* P) {
    each_panel(K, [&](int64_t panel, int64_t rows) {
        const T* factor = D == Decay::vector ? decay + panel : decay;
        for (int64_t n = 0; n < rows; ++n, P += kColumns<T>)
            for (int c = 0; c < kColumnVectors; ++c) {
                vec<T> row = load(P + c * lanes<T>);
                if constexpr (D != Decay::none) row = broadcast(factor[D == Decay::vector ? n : 0]) * row;
                store(P + c * lanes<T>, fma(broadcast(a[panel + n]), dw[c], row));
            }
    });
}

// Steps that share a pass with the rows in the lanes; four sums for each of them stay in registers.
constexpr int kCorrectedPass = kVectorBytes == 64 ? 4 : 2;

// A pass with a vector of rows in the lanes, at its first step: v, w, do and dw at column 0, the others at this vector
template <class T> struct CorrectedRows {
    const T *q, *k, *a, *b, *decay, *v, *w, *d_o, *dw;
    T *dq, *dk, *da, *db, *ddecay;
    int64_t V;
};

template <class T, Decay D> FASTITER_INLINE vec<T> decayed(const T* decay, vec<T> S) {
    if constexpr (D == Decay::none) return S;
    return (D == Decay::vector ? load(decay) : broadcast(*decay)) * S;
}

// The states after the pass from those before it, both (V, lanes), and dq
template <class T, int Count, Decay D>
FASTITER_NOINLINE void recompute_corrected(const CorrectedRows<T>& p, const T* before, T* after) {
    constexpr int W = lanes<T>;
    vec<T> dq[Count]{};
    each_panel(p.V, [&](int64_t panel, int64_t columns) {
        for (int64_t n = 0; n < columns; ++n, before += W, after += W) {
            vec<T> S = load(before);
#pragma GCC unroll 4
            for (int t = 0; t < Count; ++t) {
                const int64_t step = t * kPanelWidth, at = panel + step + n;
                S = fma(load(p.b + step), broadcast(p.w[at]), decayed<T, D>(p.decay + step, S));
                S = fma(load(p.k + step), broadcast(p.v[at]), S);
                dq[t] = fma(broadcast(p.d_o[at]), S, dq[t]);
            }
            store(after, S);
        }
    });
#pragma GCC unroll 4
    for (int t = 0; t < Count; ++t) store(p.dq + t * kPanelWidth, dq[t]);
}

// dk, db, da and ddecay, and P before the pass from P after it, (V, lanes); `states`: those before the pass
template <class T, int Count, Decay D>
FASTITER_NOINLINE void visit_corrected_rows(const CorrectedRows<T>& p, const T* states, T* P) {
    constexpr int W = lanes<T>;
    vec<T> dk[Count]{}, db[Count]{}, da[Count]{}, ddecay[Count]{};
    each_panel(p.V, [&](int64_t panel, int64_t columns) {
        for (int64_t n = 0; n < columns; ++n, states += W, P += W) {
            vec<T> S[Count], row = load(P);
            S[0] = load(states);
#pragma GCC unroll 4
            for (int t = 0; t + 1 < Count; ++t) {
                const int64_t step = t * kPanelWidth, at = panel + step + n;
                const vec<T> kept = fma(load(p.b + step), broadcast(p.w[at]), decayed<T, D>(p.decay + step, S[t]));
                S[t + 1] = fma(load(p.k + step), broadcast(p.v[at]), kept);
            }
#pragma GCC unroll 4
            for (int t = Count - 1; t >= 0; --t) {
                const int64_t step = t * kPanelWidth, at = panel + step + n;
                const vec<T> dw = broadcast(p.dw[at]);
                row = fma(load(p.q + step), broadcast(p.d_o[at]), row);
                dk[t] = fma(row, broadcast(p.v[at]), dk[t]);
                db[t] = fma(row, broadcast(p.w[at]), db[t]);
                da[t] = fma(S[t], dw, da[t]);
                if (D != Decay::none) ddecay[t] = fma(S[t], row, ddecay[t]);
                row = fma(load(p.a + step), dw, decayed<T, D>(p.decay + step, row));
            }
            store(P, row);
        }
    });
#pragma GCC unroll 4
    for (int t = 0; t < Count; ++t) {
        const int64_t step = t * kPanelWidth;
        store(p.dk + step, dk[t]), store(p.db + step, db[t]), store(p.da + step, da[t]);
        if (D != Decay::none) store(p.ddecay + step, ddecay[t]);
    }
}

// Calls f with the form of the decay as a compile-time constant.
template <class F> FASTITER_INLINE void with_decay(Decay decay, F f) {
    if (decay == Decay::none)
        f.template operator()<Decay::none>();
    else if (decay == Decay::scalar)
        f.template operator()<Decay::scalar>();
    else
        f.template operator()<Decay::vector>();
}

} // namespace fastiter::ssm::FASTITER_LEVEL
