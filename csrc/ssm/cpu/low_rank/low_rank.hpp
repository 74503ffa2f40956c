// The passes of linear attention with a correction of rank one, S = decay S' + b w^T + k v^T with w = S'^T a for the
// state S' before the step. A step reads w before it writes, so that a pass over the state performs one step and
// accumulates the next w.
#pragma once
#include "ssm/cpu/attention/attention.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// a = -beta decay k, the correction of the delta rule
template <class T>
FASTITER_NOINLINE void correct_keys(const AttentionShape& s, const PanelTile<T>& k, const PanelTile<T>& decay,
                                    const T* beta, int64_t steps, const PanelTile<T>& a) {
    for (int64_t n = 0; n < s.K; n += lanes<T>)
        for (int64_t t = 0; t < steps; ++t) {
            vec<T> x = load(k.at(n, t)) * -beta[t];
            if (s.decay != Decay::none)
                x *= s.decay == Decay::vector ? load(decay.at(n, t)) : broadcast(*decay.at(0, t));
            store(a.at(n, t), x);
        }
}

// Blocks of columns that share the broadcast numbers of a step
constexpr int kBlocksTogether = 2;

// The arguments of a step for adjacent blocks of columns: panels at this step; `next_a` is at the next step (any panel
// if there is none); w is that of this step and is overwritten by that of the next.
template <class T> struct StepPass {
    const T *q, *k, *b, *decay, *next_a, *v;
    T *o, *w;
    int64_t K, state_block; // distance from a block of the state to the next
    T beta;                 // factor of v in the delta rule
};

// Calls f(panel offset, rows in it, first row) for the panels of K rows.
template <class F> FASTITER_INLINE void each_panel(int64_t K, F f) {
    for (int64_t from = 0; from < K; from += kPanelWidth)
        f(from / kPanelWidth * kPanelSize, min_of(kPanelWidth, K - from));
}

// w = S^T a for adjacent blocks of columns
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

// One step. Delta: b is k, so that there is one update, k (beta v + w)^T.
template <class T, int Blocks, Decay D, bool Delta>
FASTITER_NOINLINE void advance_corrected(const StepPass<T>& p, T* state, Upcoming& upcoming) {
    constexpr int W = lanes<T>, C = kColumnVectors, N = Blocks * C;
    vec<T> v[N], w[N], o[N], next[N];
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) {
        v[c] = load(p.v + c * W);
        w[c] = load(p.w + c * W);
        o[c] = next[c] = vec<T>{};
        if (Delta) v[c] = fma(v[c], p.beta, w[c]);
    }
    each_panel(p.K, [&](int64_t panel, int64_t rows) {
        const T *q = p.q + panel, *k = p.k + panel, *b = p.b + panel, *a = p.next_a + panel;
        const T* decay = D == Decay::vector ? p.decay + panel : p.decay;
        for (int64_t n = 0; n < rows; ++n, state += kColumns<T>) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            const vec<T> qn = broadcast(q[n]), kn = broadcast(k[n]), an = broadcast(a[n]);
            // All loads of a row precede its stores: rows of adjacent blocks may be a multiple of the page size apart,
            // and a load then waits for an earlier store.
            vec<T> S[N];
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) S[c] = load(state + c / C * p.state_block + c % C * W);
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) {
                if constexpr (D != Decay::none) S[c] = broadcast(decay[D == Decay::vector ? n : 0]) * S[c];
                if constexpr (!Delta) S[c] = fma(broadcast(b[n]), w[c], S[c]);
                S[c] = fma(kn, v[c], S[c]);
                o[c] = fma(qn, S[c], o[c]);
                next[c] = fma(an, S[c], next[c]);
            }
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) store(state + c / C * p.state_block + c % C * W, S[c]);
        }
    });
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) {
        store(p.o + c * W, o[c]);
        store(p.w + c * W, next[c]);
    }
}

// The arguments of a backward step for adjacent blocks of columns; those named `later` belong to the following step,
// whose decay and a have yet to be applied to P: P = decay P + a dw. `later_dw` is that of the following step and is
// overwritten by that of this one.
template <class T> struct StepGradient {
    const T *q, *k, *b, *later_decay, *later_a, *d_o;
    T *dv, *dw, *later_dw;
    int64_t K, block; // distance from a block of P to the next
};

// dw = P^T b and dv = P^T k after P += q do^T. With Later false there is no following step, or its state was reset.
template <class T, int Blocks, Decay D, bool Later>
FASTITER_NOINLINE void visit_corrected(const StepGradient<T>& p, T* P, Upcoming& upcoming) {
    constexpr int W = lanes<T>, C = kColumnVectors, N = Blocks * C;
    vec<T> d_o[N], dv[N], dw[N], next[N];
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) {
        d_o[c] = load(p.d_o + c * W);
        dv[c] = next[c] = vec<T>{};
        if (Later) dw[c] = load(p.later_dw + c * W);
    }
    each_panel(p.K, [&](int64_t panel, int64_t rows) {
        const T *q = p.q + panel, *k = p.k + panel, *b = p.b + panel;
        const T* a = Later ? p.later_a + panel : nullptr;
        const T* decay = Later && D == Decay::vector ? p.later_decay + panel : p.later_decay;
        for (int64_t n = 0; n < rows; ++n, P += kColumns<T>) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            const vec<T> qn = broadcast(q[n]), kn = broadcast(k[n]), bn = broadcast(b[n]);
            vec<T> row[N];
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) row[c] = load(P + c / C * p.block + c % C * W);
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) {
                if constexpr (Later && D != Decay::none) row[c] = broadcast(decay[D == Decay::vector ? n : 0]) * row[c];
                if constexpr (Later) row[c] = fma(broadcast(a[n]), dw[c], row[c]);
                row[c] = fma(qn, d_o[c], row[c]);
                dv[c] = fma(kn, row[c], dv[c]);
                next[c] = fma(bn, row[c], next[c]);
            }
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) store(P + c / C * p.block + c % C * W, row[c]);
        }
    });
#pragma GCC unroll 4
    for (int c = 0; c < N; ++c) {
        store(p.dv + c * W, dv[c]);
        store(p.dw + c * W, next[c]);
        store(p.later_dw + c * W, next[c]);
    }
}

// P = decay P + a dw for a block: the gradient of the state before a step from that after it
template <class T, Decay D>
FASTITER_NOINLINE void leave_step(const T* decay, const T* a, int64_t K, const T* dw, T* P) {
    each_panel(K, [&](int64_t panel, int64_t rows) {
        const T* factor = D == Decay::vector ? decay + panel : decay;
        for (int64_t n = 0; n < rows; ++n, P += kColumns<T>)
            for (int c = 0; c < kColumns<T>; c += lanes<T>) {
                vec<T> row = load(P + c);
                if constexpr (D != Decay::none) row = broadcast(factor[D == Decay::vector ? n : 0]) * row;
                store(P + c, fma(broadcast(a[panel + n]), load(dw + c), row));
            }
    });
}

// Steps that share a pass with rows in the lanes; four sums for each of them stay in registers.
constexpr int kCorrectedPass = kVectorBytes == 64 ? 4 : 2;

// A pass with a vector of rows in the lanes, at its first step: v, w, do and dw at column 0, the others at this vector
template <class T> struct CorrectedRows {
    const T *q, *k, *a, *b, *decay, *v, *w, *d_o, *dw;
    T *dq, *dk, *da, *db, *ddecay;
    int64_t V;
};

// The states after the pass from those before it, both (V, lanes), and dq
template <class T, int Count, Decay D>
FASTITER_NOINLINE void recompute_corrected(const CorrectedRows<T>& p, const T* before, T* after, Upcoming& upcoming) {
    constexpr int W = lanes<T>;
    vec<T> dq[Count]{};
    const StepVectors<T, Count> b(p.b), k(p.k);
    const StepDecays<T, Count, D> decay(p.decay);
    each_panel(p.V, [&](int64_t panel, int64_t columns) {
        for (int64_t n = 0; n < columns; ++n, before += W, after += W) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            vec<T> S = load(before);
#pragma GCC unroll 4
            for (int t = 0; t < Count; ++t) {
                const int64_t step = t * kPanelWidth, at = panel + step + n;
                S = fma(b.at[t], broadcast(p.w[at]), decay.apply(t, S));
                S = fma(k.at[t], broadcast(p.v[at]), S);
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
FASTITER_NOINLINE void visit_corrected_rows(const CorrectedRows<T>& p, const T* states, T* P, Upcoming& upcoming) {
    constexpr int W = lanes<T>;
    vec<T> dk[Count]{}, db[Count]{}, da[Count]{}, ddecay[Count]{};
    const StepVectors<T, Count> q(p.q), a(p.a);
    const StepDecays<T, Count, D> decay(p.decay);
    each_panel(p.V, [&](int64_t panel, int64_t columns) {
        for (int64_t n = 0; n < columns; ++n, states += W, P += W) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            vec<T> S[Count], row = load(P);
            S[0] = load(states);
#pragma GCC unroll 4
            for (int t = 0; t + 1 < Count; ++t) {
                const int64_t step = t * kPanelWidth, at = panel + step + n;
                const vec<T> decayed = fma(load(p.b + step), broadcast(p.w[at]), decay.apply(t, S[t]));
                S[t + 1] = fma(load(p.k + step), broadcast(p.v[at]), decayed);
            }
#pragma GCC unroll 4
            for (int t = Count - 1; t >= 0; --t) {
                const int64_t step = t * kPanelWidth, at = panel + step + n;
                const vec<T> dw = broadcast(p.dw[at]);
                row = fma(q.at[t], broadcast(p.d_o[at]), row);
                dk[t] = fma(row, broadcast(p.v[at]), dk[t]);
                db[t] = fma(row, broadcast(p.w[at]), db[t]);
                da[t] = fma(S[t], dw, da[t]);
                if (D != Decay::none) ddecay[t] = fma(S[t], row, ddecay[t]);
                row = fma(a.at[t], dw, decay.apply(t, row));
            }
            store(P, row);
        }
    });
#pragma GCC unroll 4
    for (int t = 0; t < Count; ++t) {
        const int64_t step = t * kPanelWidth;
        store(p.dk + step, dk[t]);
        store(p.db + step, db[t]);
        store(p.da + step, da[t]);
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
