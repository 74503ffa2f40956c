// The cells with diagonal recurrent weights, one time step each, on vectors of units (equations: kernels.hpp).
//
//   begin(x, a, p, s, keep), finish(s, keep)  s: states, before the step in, after it out. Two calls, so that several
//                                             vectors of units run the first and then the second: each is a long
//                                             dependency chain, whose latency the other vectors hide.
//   backward(x, a, p, s, ds, dx, sums)        s: states before the step; ds: gradients of the states, after the step
//                                             in, before it out; dx: gradients of x; those of a and p go to sums
//   linearise(x, a, p, s, j), times(j, d)     s: as for begin and finish; j: Jacobian of the step, `slopes` numbers;
//                                             d: change of the states, before the step in, after it out
//   bounds(s, limit), restrain(y, limit)      bounds of all states that can follow s; clamps y to them
//
// unknowns: number of states, from the first one on, that Newton's method solves for. slstm's c, n and m follow from
// the earlier h by linear recurrences, which are solved exactly in the same pass.
#pragma once
#include "rnn/cpu/cells.hpp"

FASTITER_FAMILY(newton)

namespace fastiter::newton::FASTITER_LEVEL {

using namespace fastiter::rnn::FASTITER_LEVEL; // the sLSTM's step

// Derivatives of a sigmoid and of a tanh with value s
template <class T> FASTITER_INLINE vec<T> slope_of_sigmoid(vec<T> s) { return s * (T(1) - s); }
template <class T> FASTITER_INLINE vec<T> slope_of_tanh(vec<T> s) { return fma(-s, s, broadcast(T(1))); }

// max(1, |s|), with a margin for rounding errors
template <class T> FASTITER_INLINE vec<T> bound_of(vec<T> s) { return at_least<T>(magnitude<T>(s), T(1)) * T(1.25); }

template <class T> FASTITER_INLINE vec<T> clamp(vec<T> x, vec<T> limit) {
    return max_keeping_nan(-limit, min_keeping_nan(limit, x));
}

// z = s(a_z h + x_z);  r = s(a_r h + x_r);  q = tanh(a_q h r + x_q);  h+ = z q + (1 - z) h
template <class T> struct ParaGru {
    using V = vec<T>;
    static constexpr int gates = 3, states = 1, peepholes = 0, unknowns = 1, slopes = 1;

    FASTITER_INLINE static void begin(const V* x, const V* a, const V*, V* s, V* keep) {
        V h = s[0], r = sigmoid<T>(fma(a[1], h, x[1]));
        keep[0] = sigmoid<T>(fma(a[0], h, x[0]));
        keep[1] = r;
        keep[2] = fma(a[2] * h, r, x[2]);
    }
    FASTITER_INLINE static void finish(V* s, V* keep) {
        V q = keep[2] = tanh<T>(keep[2]);
        s[0] = fma(keep[0], q - s[0], s[0]);
    }
    FASTITER_INLINE static void backward(const V* x, const V* a, const V* p, const V* s, V* ds, V* dx, V* sums) {
        V after[1] = {s[0]}, keep[3];
        begin(x, a, p, after, keep);
        finish(after, keep);
        V h = s[0], z = keep[0], r = keep[1], q = keep[2], dh = ds[0];
        V dz = dh * (q - h) * slope_of_sigmoid<T>(z);
        V dq = dh * z * slope_of_tanh<T>(q), da_h = dq * a[2];
        V dr = da_h * h * slope_of_sigmoid<T>(r);
        dx[0] = dz;
        dx[1] = dr;
        dx[2] = dq;
        sums[0] = fma(dz, h, sums[0]);
        sums[1] = fma(dr, h, sums[1]);
        sums[2] = fma(dq * r, h, sums[2]);
        ds[0] = fma(dz, a[0], fma(dr, a[1], fma(da_h, r, dh - dh * z)));
    }
    FASTITER_INLINE static void linearise(const V* x, const V* a, const V* p, V* s, V* j) {
        V h = s[0], keep[3];
        begin(x, a, p, s, keep);
        finish(s, keep);
        V z = keep[0], r = keep[1], q = keep[2];
        V of_r = fma(h * a[1], slope_of_sigmoid<T>(r), r); // d(h r) / dh
        j[0] = fma(z * slope_of_tanh<T>(q) * a[2], of_r, fma((q - h) * a[0], slope_of_sigmoid<T>(z), T(1) - z));
    }
    FASTITER_INLINE static void times(const V* j, V* d) { d[0] = j[0] * d[0]; }
    FASTITER_INLINE static void bounds(const V* s, V* limit) { limit[0] = bound_of<T>(s[0]); }
    FASTITER_INLINE static void restrain(V* y, const V* limit) { y[0] = clamp<T>(y[0], limit[0]); }
};

// f = s(a_f h + x_f + p_f c);  q = tanh(a_q h + x_q);  c+ = f c + (1 - f) q;  o = s(a_o h + x_o + p_o c+);
// h+ = o tanh(c+)
template <class T> struct ParaLstm {
    using V = vec<T>;
    static constexpr int gates = 3, states = 2, peepholes = 2, unknowns = 2, slopes = 4;

    FASTITER_INLINE static void begin(const V* x, const V* a, const V* p, V* s, V* keep) {
        V h = s[0], c = s[1];
        V f = sigmoid<T>(fma(a[0], h, fma(p[0], c, x[0]))), q = tanh<T>(fma(a[2], h, x[2]));
        s[1] = fma(f, c - q, q);
        keep[0] = f;
        keep[1] = fma(a[1], h, fma(p[1], s[1], x[1]));
        keep[2] = q;
    }
    FASTITER_INLINE static void finish(V* s, V* keep) {
        keep[1] = sigmoid<T>(keep[1]);
        keep[3] = tanh<T>(s[1]);
        s[0] = keep[1] * keep[3];
    }
    FASTITER_INLINE static void backward(const V* x, const V* a, const V* p, const V* s, V* ds, V* dx, V* sums) {
        V h = s[0], c = s[1], after[2] = {h, c}, keep[4];
        begin(x, a, p, after, keep);
        finish(after, keep);
        V f = keep[0], o = keep[1], q = keep[2], tanh_c = keep[3], dh = ds[0];
        V d_o = dh * tanh_c * slope_of_sigmoid<T>(o);
        V dc = fma(dh * o, slope_of_tanh<T>(tanh_c), fma(d_o, p[1], ds[1]));
        V df = dc * (c - q) * slope_of_sigmoid<T>(f);
        V dq = (dc - dc * f) * slope_of_tanh<T>(q);
        dx[0] = df;
        dx[1] = d_o;
        dx[2] = dq;
        sums[0] = fma(df, h, sums[0]);
        sums[1] = fma(d_o, h, sums[1]);
        sums[2] = fma(dq, h, sums[2]);
        sums[3] = fma(df, c, sums[3]);
        sums[4] = fma(d_o, after[1], sums[4]);
        ds[0] = fma(df, a[0], fma(d_o, a[1], dq * a[2]));
        ds[1] = fma(dc, f, df * p[0]);
    }
    // Jacobian of c+ with respect to c and h, and of h+ with respect to h and c+
    FASTITER_INLINE static void linearise(const V* x, const V* a, const V* p, V* s, V* j) {
        V c = s[1], keep[4];
        begin(x, a, p, s, keep);
        finish(s, keep);
        V f = keep[0], o = keep[1], q = keep[2], tanh_c = keep[3];
        V by_f = (c - q) * slope_of_sigmoid<T>(f), by_o = tanh_c * slope_of_sigmoid<T>(o);
        j[0] = fma(by_f, p[0], f);
        j[1] = fma(by_f, a[0], (T(1) - f) * slope_of_tanh<T>(q) * a[2]);
        j[2] = by_o * a[1];
        j[3] = fma(by_o, p[1], o * slope_of_tanh<T>(tanh_c));
    }
    FASTITER_INLINE static void times(const V* j, V* d) {
        d[1] = fma(j[0], d[1], j[1] * d[0]);
        d[0] = fma(j[2], d[0], j[3] * d[1]);
    }
    FASTITER_INLINE static void bounds(const V* s, V* limit) {
        limit[0] = broadcast(T(1));
        limit[1] = bound_of<T>(s[1]);
    }
    FASTITER_INLINE static void restrain(V* y, const V* limit) {
        y[0] = clamp<T>(y[0], limit[0]);
        y[1] = clamp<T>(y[1], limit[1]);
    }
};

// rnn's slstm on the gates x_g + a_g h
template <class T> struct ParaSlstm {
    using V = vec<T>;
    using Cell = Slstm<T>;
    static constexpr int gates = 4, states = 4, peepholes = 0, unknowns = 1, slopes = 10;

    FASTITER_INLINE static void begin(const V* x, const V* a, const V*, V* s, V* keep) {
        V from_h[4];
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) from_h[g] = a[g] * s[0];
        Cell::begin(x, from_h, s, keep);
    }
    FASTITER_INLINE static void finish(V* s, V* keep) { Cell::finish(s, keep); }
    FASTITER_INLINE static void backward(const V* x, const V* a, const V* p, const V* s, V* ds, V* dx, V* sums) {
        V now[4] = {s[0], s[1], s[2], s[3]}, keep[4], ahead[Cell::ahead];
        begin(x, a, p, now, keep);
        finish(now, keep);
        Cell::prepare(keep, s, now, ahead);
        Cell::backward(keep, s, now, ahead, ds, dx, nullptr);
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) {
            ds[0] = fma(dx[g], a[g], ds[0]);
            sums[g] = fma(dx[g], s[0], sums[g]);
        }
    }
    // m is a_i or l, as begin has chosen (a_i in a tie), so that either i or f is 1. The clamps act only at a row's
    // first step, where no state changes.
    FASTITER_INLINE static void linearise(const V* x, const V* a, const V*, V* s, V* j) {
        const V before[4] = {s[0], s[1], s[2], s[3]};
        V keep[4];
        begin(x, a, nullptr, s, keep);
        finish(s, keep);
        V a_i = keep[0], a_f = keep[1], z = keep[2], o = keep[3], h = s[0], c = s[1], n = s[2], m = s[3];
        V l = log_sigmoid<T>(a_f) + before[3], l_by_h = sigmoid<T>(-a_f) * a[1];
        V i, f;
        Cell::gates_of(a_i - m, l - m, i, f);
        mask<T> is_a_i = (before[2] == T(0)) | (l <= a_i);
        V m_by_h = select<T>(is_a_i, a[0], l_by_h), m_by_m = select<T>(is_a_i, V{}, broadcast(T(1)));
        V i_by_h = i * (a[0] - m_by_h), f_by_h = f * (l_by_h - m_by_h), i_by_m = -i * m_by_m, f_by_m = f - f * m_by_m;
        j[0] = fma(before[1], f_by_h, fma(i * a[2], slope_of_tanh<T>(z), z * i_by_h)); // c+ by h
        j[1] = fma(before[1], f_by_m, z * i_by_m);                                     // c+ by m
        j[2] = fma(before[2], f_by_h, i_by_h);                                         // n+ by h
        j[3] = fma(before[2], f_by_m, i_by_m);                                         // n+ by m
        j[4] = f;
        j[5] = m_by_h;
        j[6] = m_by_m;
        // h+ by h, c+, -n+
        j[7] = c * slope_of_sigmoid<T>(o) * a[3] / n;
        j[8] = o / n;
        j[9] = h / n;
    }
    FASTITER_INLINE static void times(const V* j, V* d) {
        d[1] = fma(j[4], d[1], fma(j[0], d[0], j[1] * d[3]));
        d[2] = fma(j[4], d[2], fma(j[2], d[0], j[3] * d[3]));
        d[3] = fma(j[5], d[0], j[6] * d[3]);
        d[0] = fma(j[7], d[0], fma(j[8], d[1], -j[9] * d[2]));
    }
    FASTITER_INLINE static void bounds(const V* s, V* limit) { limit[0] = bound_of<T>(s[1] / s[2]); }
    FASTITER_INLINE static void restrain(V* y, const V* limit) {
        y[0] = clamp<T>(y[0], limit[0]);
        y[2] = at_least<T>(y[2], T(1));
    }
};

} // namespace fastiter::newton::FASTITER_LEVEL
