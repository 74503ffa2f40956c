// The cells, one time step each, on vectors of units. In each direction a step is two calls, so that a tile can
// make the first call for all its vectors and then the second: each is a long dependency chain, whose latency the other
// vectors hide.
//
//   begin(x, p, s, keep), finish(s, keep)       x: gates of W x; p: R h' + b; s: states, before the step in, after out;
//                                               keep: passed from one to the other, and saved for backward
//                                               (s may also carry values from begin to finish)
//   prepare(keep, before, now, ahead)           ahead: passed on to `backward`; `ahead` vectors
//   backward(keep, before, now, ahead, ds, dx, dp)
//                                               ds: gradients of the states, after the step in, before it out (without
//                                               the contribution through R); dx, dp: gradients of x and p
//
// needs_before, needs_now: which states prepare and backward read, before and after the step; own_dp: dp is written,
// otherwise it equals dx; reads_h: forward reads h' itself, not only through p. The LSTM's gates i, f, g, o are in
// torch's order; docs/rnn/theory.md has the derivations.
#pragma once
#include "core/cpu/vmath.hpp"
#include "rnn/cpu/kernels.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

// h = tanh(a) or max(a, 0)
template <class T, bool RELU> struct Elman {
    using V = vec<T>;
    static constexpr int gates = 1, states = 1, saved = 0, ahead = 0;
    static constexpr bool needs_before[] = {false}, needs_now[] = {true}, own_dp = false, reads_h = false;

    FASTITER_INLINE static void begin(const V* x, const V* p, V* s, V*) { s[0] = x[0] + p[0]; }
    FASTITER_INLINE static void finish(V* s, V*) { s[0] = RELU ? at_least<T>(s[0], T(0)) : tanh<T>(s[0]); }
    FASTITER_INLINE static void prepare(const V*, const V*, const V*, V*) {}
    FASTITER_INLINE static void backward(const V*, const V*, const V* now, const V*, V* ds, V* dx, V*) {
        V h = now[0];
        dx[0] = RELU ? select<T>(h <= T(0), V{}, ds[0]) : ds[0] * (T(1) - h * h);
        ds[0] = V{};
    }
};

// c = f c' + i g;  h = o tanh(c)
template <class T> struct Lstm {
    using V = vec<T>;
    static constexpr int gates = 4, states = 2, saved = 4, ahead = 1;
    static constexpr bool needs_before[] = {false, true}, needs_now[] = {false, true}, own_dp = false, reads_h = false;

    FASTITER_INLINE static void begin(const V* x, const V* p, V* s, V* keep) {
        V i = sigmoid<T>(x[0] + p[0]), f = sigmoid<T>(x[1] + p[1]), g = tanh<T>(x[2] + p[2]),
          o = sigmoid<T>(x[3] + p[3]);
        s[1] = fma(f, s[1], i * g);
        keep[0] = i;
        keep[1] = f;
        keep[2] = g;
        keep[3] = o;
    }
    FASTITER_INLINE static void finish(V* s, V* keep) { s[0] = keep[3] * tanh<T>(s[1]); }
    FASTITER_INLINE static void prepare(const V*, const V*, const V* now, V* ahead) { ahead[0] = tanh<T>(now[1]); }
    FASTITER_INLINE static void backward(const V* keep, const V* before, const V*, const V* ahead, V* ds, V* dx, V*) {
        V i = keep[0], f = keep[1], g = keep[2], o = keep[3], tanh_c = ahead[0];
        V dh = ds[0], dc = fma(dh * o, T(1) - tanh_c * tanh_c, ds[1]);
        dx[0] = dc * g * (i * (T(1) - i));
        dx[1] = dc * before[1] * (f * (T(1) - f));
        dx[2] = dc * i * (T(1) - g * g);
        dx[3] = dh * tanh_c * (o * (T(1) - o));
        ds[0] = V{};
        ds[1] = dc * f;
    }
};

// n = tanh(x_n + r q), q = R_n h' + b_n;  h = (1 - z) n + z h'
template <class T> struct Gru {
    using V = vec<T>;
    static constexpr int gates = 3, states = 1, saved = 4, ahead = 0;
    static constexpr bool needs_before[] = {true}, needs_now[] = {false}, own_dp = true, reads_h = true;

    FASTITER_INLINE static void begin(const V* x, const V* p, V*, V* keep) {
        V r = sigmoid<T>(x[0] + p[0]), q = p[2];
        keep[0] = r;
        keep[1] = sigmoid<T>(x[1] + p[1]);
        keep[2] = fma(r, q, x[2]);
        keep[3] = q;
    }
    FASTITER_INLINE static void finish(V* s, V* keep) {
        V z = keep[1], n = keep[2] = tanh<T>(keep[2]);
        s[0] = fma(z, s[0] - n, n);
    }
    FASTITER_INLINE static void prepare(const V*, const V*, const V*, V*) {}
    FASTITER_INLINE static void backward(const V* keep, const V* before, const V*, const V*, V* ds, V* dx, V* dp) {
        V r = keep[0], z = keep[1], n = keep[2], q = keep[3], dh = ds[0];
        V dn = dh * (T(1) - z) * (T(1) - n * n);
        dx[0] = dp[0] = dn * q * (r * (T(1) - r));
        dx[1] = dp[1] = dh * (before[0] - n) * (z * (T(1) - z));
        dx[2] = dn;
        dp[2] = dn * r;
        ds[0] = dh * z;
    }
};

// l = log sigmoid(a_f) + m';  m = a_i if n' = 0 else max(a_i, l);  i = exp(a_i - m);  f = exp(min(l - m, 0))
// c = f c' + i z;  n = max(f n' + i, 1);  h = o c / n
template <class T> struct Slstm {
    using V = vec<T>;
    static constexpr int gates = 4, states = 4, saved = 4, ahead = 2;
    static constexpr bool needs_before[] = {false, true, true, true}, needs_now[] = {false, true, true, false},
                          own_dp = false, reads_h = false;

    // m; NaN in either argument propagates
    FASTITER_INLINE static V larger(V a_i, V l, V n_before) {
        return select<T>((n_before == T(0)) | (l <= a_i) | (a_i != a_i), a_i, l);
    }
    // i and f. One of them is 1: either m is a_i, or m is l and l - m is 0. A NaN propagates through the other.
    FASTITER_INLINE static void gates_of(V a_i_minus_m, V l_minus_m, V& i, V& f) {
        V d = at_most<T>(l_minus_m, T(0)), e = exp_of_nonpositive<T>(a_i_minus_m + d);
        i = select<T>(a_i_minus_m == T(0), broadcast(T(1)), e);
        f = select<T>(d == T(0), broadcast(T(1)), e);
    }
    FASTITER_INLINE static void begin(const V* x, const V* p, V* s, V* keep) {
        V a_i = x[0] + p[0], a_f = x[1] + p[1], l = log_sigmoid<T>(a_f) + s[3];
        s[3] = larger(a_i, l, s[2]);
        s[0] = l - s[3]; // h' is already contained in p
        keep[0] = a_i;
        keep[1] = a_f;
        keep[2] = tanh<T>(x[2] + p[2]);
        keep[3] = sigmoid<T>(x[3] + p[3]);
    }
    FASTITER_INLINE static void finish(V* s, V* keep) {
        V i, f;
        gates_of(keep[0] - s[3], s[0], i, f);
        s[1] = fma(f, s[1], i * keep[2]);
        s[2] = at_least<T>(fma(f, s[2], i), T(1));
        s[0] = keep[3] * s[1] / s[2];
    }
    // m and the decisions (n' = 0, which of a_i and l is m) are recomputed from the saved a_i and a_f, so that they
    // agree even if the saved m was rounded.
    FASTITER_INLINE static void prepare(const V* keep, const V* before, const V*, V* ahead) {
        V a_f = keep[1], e_f = exp_of_nonpositive<T>(minus_magnitude<T>(a_f));
        ahead[0] = e_f;
        ahead[1] = log_sigmoid<T>(a_f, e_f) + before[3];
    }
    FASTITER_INLINE static void backward(const V* keep, const V* before, const V* now, const V* ahead, V* ds, V* dx,
                                         V*) {
        V a_i = keep[0], a_f = keep[1], z = keep[2], o = keep[3], e_f = ahead[0], l = ahead[1];
        V m = larger(a_i, l, before[2]), d = l - m;
        V i, f;
        gates_of(a_i - m, d, i, f);
        V dh = ds[0], one_over_n = T(1) / now[2], h_over_o = now[1] * one_over_n, d_quotient = dh * o * one_over_n;
        V dc = ds[1] + d_quotient;
        V dn = ds[2] - d_quotient * h_over_o;
        dn = select<T>(fma(f, before[2], i) < T(1), V{}, dn); // max(., 1) clamps n to 1
        V d_log_i = fma(dc, z, dn) * i;
        V d_log_f = select<T>(d > T(0), V{}, fma(dc, before[1], dn * before[2]) * f); // min(., 0) clamps f to 1
        V dm = ds[3] - d_log_i - d_log_f;
        // The gradient of m goes to a_i if m is a_i, otherwise to l; half to each in a tie.
        V to_i = select<T>((before[2] == T(0)) | (a_i > l), dm, select<T>(a_i == l, dm * T(0.5), V{}));
        V dl = d_log_f + (dm - to_i);
        dx[0] = d_log_i + to_i;
        dx[1] = dl * sigmoid<T>(-a_f, e_f);
        dx[2] = dc * i * (T(1) - z * z);
        dx[3] = dh * h_over_o * (o * (T(1) - o));
        ds[0] = V{};
        ds[1] = dc * f;
        ds[2] = dn * f;
        ds[3] = dl;
    }
};

// Calls f<Cell type>() for the cell's tag.
template <class S, class F> auto with_cell(Cell cell, F f) {
    using T = accumulate_t<S>;
    switch (cell) {
    case Cell::elman_tanh:
        return f.template operator()<Elman<T, false>>();
    case Cell::elman_relu:
        return f.template operator()<Elman<T, true>>();
    case Cell::lstm:
        return f.template operator()<Lstm<T>>();
    case Cell::gru:
        return f.template operator()<Gru<T>>();
    default:
        return f.template operator()<Slstm<T>>();
    }
}

} // namespace fastiter::rnn::FASTITER_LEVEL
