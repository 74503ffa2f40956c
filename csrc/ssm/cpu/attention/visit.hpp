// The passes of the backward pass of linear attention. P is the gradient of the state after a step, without the
// contribution of the step's own output; do and dP follow from it:
//     after the step:   P += q do^T;  dk = P v;  dv = P^T k;  ddecay = rows of S[t-1] * P;  dq = S[t] do;    P = decay P
//     before the step:  dk = P v;  dv = P^T k;  ddecay = rows of S[t-1] * P;  dq = S[t-1] do;    P = decay P + q do^T
// dv has the columns of P in the lanes, as the forward pass has those of S; dq, dk and ddecay have rows in the lanes,
// so that no sum runs across lanes.
#pragma once
#include "ssm/cpu/attention/attention.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// Steps that share a pass with rows in the lanes; their sums dq, or dk and ddecay, stay in registers.
constexpr int kRowPass = kVectorBytes == 64 ? 6 : 3;

// The arguments of a pass at its first step: panels
template <class T> struct ColumnPass {
    const T *q, *k, *decay, *d_o;
    T* dv;
    const T* coefficients; // with a bonus: the sum over k of q bonus k at each step
    int64_t K;
};

template <class T, int Count, Decay D, bool Before>
FASTITER_NOINLINE void visit_columns(const ColumnPass<T>& w, T* P, Upcoming& upcoming) {
    constexpr int W = lanes<T>, C = kColumnVectors;
    vec<T> d_o[Count][C], dv[Count][C];
#pragma GCC unroll 8
    for (int t = 0; t < Count; ++t)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) {
            d_o[t][c] = load(w.d_o + t * kPanelWidth + c * W);
            dv[t][c] = Before ? d_o[t][c] * w.coefficients[t] : vec<T>{};
        }
    for (int64_t from = 0; from < w.K; from += kPanelWidth) {
        const int64_t panel = from / kPanelWidth * kPanelSize, rows = min_of(kPanelWidth, w.K - from);
        const T *q = w.q + panel, *k = w.k + panel, *decay = D == Decay::vector ? w.decay + panel : w.decay;
        for (int64_t n = 0; n < rows; ++n, P += kColumns<T>) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            vec<T> row[C];
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) row[c] = load(P + c * W);
#pragma GCC unroll 8
            for (int t = Count - 1; t >= 0; --t) {
                const int64_t step = t * kPanelWidth;
                const vec<T> qt = broadcast(q[step + n]), kt = broadcast(k[step + n]);
#pragma GCC unroll 2
                for (int c = 0; c < C; ++c) {
                    if (!Before) row[c] = fma(qt, d_o[t][c], row[c]);
                    dv[t][c] = fma(kt, row[c], dv[t][c]);
                    if constexpr (D != Decay::none)
                        row[c] = broadcast(decay[step + (D == Decay::vector ? n : 0)]) * row[c];
                    if (Before) row[c] = fma(qt, d_o[t][c], row[c]);
                }
            }
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) store(P + c * W, row[c]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < Count; ++t)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) store(w.dv + t * kPanelWidth + c * W, dv[t][c]);
}

// A pass with a vector of rows in the lanes, at its first step: q, k, decay, dq, dk and ddecay point to this vector; v
// and do to column 0.
template <class T> struct RowPass {
    const T *q, *k, *decay, *v, *d_o;
    T *dq, *dk, *ddecay;
    int64_t V;
};

// The states after the pass from those before it, both (V, lanes), and dq
template <class T, int Count, Decay D, bool Before>
FASTITER_NOINLINE void recompute_rows(const RowPass<T>& w, const T* before, T* after, Upcoming& upcoming) {
    constexpr int W = lanes<T>;
    vec<T> dq[Count]{};
    const StepVectors<T, Count> k(w.k);
    const StepDecays<T, Count, D> decay(w.decay);
    for (int64_t from = 0; from < w.V; from += kPanelWidth) {
        const int64_t panel = from / kPanelWidth * kPanelSize, columns = min_of(kPanelWidth, w.V - from);
        const T *v = w.v + panel, *d_o = w.d_o + panel;
        for (int64_t n = 0; n < columns; ++n, before += W, after += W) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            vec<T> S = load(before);
#pragma GCC unroll 8
            for (int t = 0; t < Count; ++t) {
                const int64_t step = t * kPanelWidth;
                const vec<T> vt = broadcast(v[step + n]);
                if (Before) dq[t] = fma(broadcast(d_o[step + n]), S, dq[t]);
                if constexpr (D == Decay::none)
                    S = fma(k.at[t], vt, S);
                else
                    S = fma(decay.at[t], S, k.at[t] * vt);
                if (!Before) dq[t] = fma(broadcast(d_o[step + n]), S, dq[t]);
            }
            store(after, S);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < Count; ++t) store(w.dq + t * kPanelWidth, dq[t]);
}

// dk and ddecay, and P before the pass from P after it, (V, lanes); `states`: those before the pass
template <class T, int Count, Decay D, bool Before>
FASTITER_NOINLINE void visit_rows(const RowPass<T>& w, const T* states, T* P, Upcoming& upcoming) {
    constexpr int W = lanes<T>;
    vec<T> dk[Count]{}, ddecay[Count]{};
    const StepVectors<T, Count> q(w.q);
    const StepDecays<T, Count, D> decay(w.decay);
    for (int64_t from = 0; from < w.V; from += kPanelWidth) {
        const int64_t panel = from / kPanelWidth * kPanelSize, columns = min_of(kPanelWidth, w.V - from);
        const T *v = w.v + panel, *d_o = w.d_o + panel;
        for (int64_t n = 0; n < columns; ++n, states += W, P += W) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            vec<T> S[Count], row = load(P);
            if constexpr (D != Decay::none) {
                S[0] = load(states);
#pragma GCC unroll 8
                for (int t = 0; t + 1 < Count; ++t) {
                    const int64_t step = t * kPanelWidth;
                    S[t + 1] = fma(decay.at[t], S[t], load(w.k + step) * v[step + n]);
                }
            }
#pragma GCC unroll 8
            for (int t = Count - 1; t >= 0; --t) {
                const int64_t step = t * kPanelWidth;
                const vec<T> d_ot = broadcast(d_o[step + n]);
                if (!Before) row = fma(q.at[t], d_ot, row);
                dk[t] = fma(row, broadcast(v[step + n]), dk[t]);
                if constexpr (D != Decay::none) {
                    ddecay[t] = fma(S[t], row, ddecay[t]);
                    row = decay.at[t] * row;
                }
                if (Before) row = fma(q.at[t], d_ot, row);
            }
            store(P, row);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < Count; ++t) {
        store(w.dk + t * kPanelWidth, dk[t]);
        if (D != Decay::none) store(w.ddecay + t * kPanelWidth, ddecay[t]);
    }
}

// Calls f with the decay and Before as compile-time constants.
template <class F> FASTITER_INLINE void with_form(Decay decay, bool before, F f) {
    auto with_decay = [&]<bool Before>() {
        if (decay == Decay::none)
            f.template operator()<Decay::none, Before>();
        else if (decay == Decay::scalar)
            f.template operator()<Decay::scalar, Before>();
        else
            f.template operator()<Decay::vector, Before>();
    };
    if (before)
        with_decay.template operator()<true>();
    else
        with_decay.template operator()<false>();
}

} // namespace fastiter::ssm::FASTITER_LEVEL
