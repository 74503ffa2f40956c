// The common part of every rnn*.cu, after device.cuh: the cells on one unit, forward and backward, and the addresses of
// a step's data. docs/rnn/index.md has the equations.
//
// ELEMENT: the storage type: float, double, BFloat16 or Half. Arithmetic, the states but h, saved values, and the
// gradients of the final and initial states are in Real.   CELL: its number in fastiter._rnn.
#pragma once
using Element = ELEMENT;
template <class E> struct Arithmetic {
    using Type = float;
};
template <> struct Arithmetic<double> {
    using Type = double;
};
using Real = Arithmetic<Element>::Type;
using Rounding = Rounded<Element>;

// ---- the cells on one unit: docs/rnn/index.md. x, p: gates of wx and of r h' + b; s: states before, then after; keep: saved
// values; ds: gradients of the states after, then before, without the path through r; dx, dp: gradients of x and p.

INLINE Real sigmoid(Real x) {
    const Real e = exp(x < 0 ? x : -x);
    return (x < 0 ? e : Real(1)) / (Real(1) + e);
}
INLINE Real log_sigmoid(Real x) { return (x < 0 ? x : Real(0)) - log1p(exp(x < 0 ? x : -x)); }

template <int Code> struct CellOf {                                             // 0, 1: h = tanh(a) or max(a, 0)
    static constexpr int gates = 1, states = 1, saved = 0, before = 0, now = 1; // before, now: bits of the states read
    static INLINE void forward(const Real* x, const Real* p, Real* s, Real*) {
        const Real a = x[0] + p[0];
        s[0] = Code == 0 ? tanh(a) : a < 0 ? Real(0) : a;
    }
    static INLINE void backward(const Real*, const Real*, const Real* now, Real* ds, Real* dx, Real* dp) {
        const Real h = now[0];
        dx[0] = dp[0] = Code == 0 ? ds[0] * (1 - h * h) : h <= 0 ? Real(0) : ds[0];
        ds[0] = 0;
    }
};

template <> struct CellOf<2> { // LSTM
    static constexpr int gates = 4, states = 2, saved = 4, before = 2, now = 2;
    static INLINE void forward(const Real* x, const Real* p, Real* s, Real* keep) {
        const Real i = sigmoid(x[0] + p[0]), f = sigmoid(x[1] + p[1]), g = tanh(x[2] + p[2]), o = sigmoid(x[3] + p[3]);
        s[1] = f * s[1] + i * g;
        s[0] = o * tanh(s[1]);
        keep[0] = i, keep[1] = f, keep[2] = g, keep[3] = o;
    }
    static INLINE void backward(const Real* keep, const Real* before, const Real* now, Real* ds, Real* dx, Real* dp) {
        const Real i = keep[0], f = keep[1], g = keep[2], o = keep[3], tanh_c = tanh(now[1]);
        const Real dh = ds[0], dc = ds[1] + dh * o * (1 - tanh_c * tanh_c);
        dp[0] = dc * g * (i * (1 - i));
        dp[1] = dc * before[1] * (f * (1 - f));
        dp[2] = dc * i * (1 - g * g);
        dp[3] = dh * tanh_c * (o * (1 - o));
        for (int k = 0; k < 4; ++k) dx[k] = dp[k];
        ds[0] = 0;
        ds[1] = dc * f;
    }
};

template <> struct CellOf<3> { // GRU
    static constexpr int gates = 3, states = 1, saved = 4, before = 1, now = 0;
    static INLINE void forward(const Real* x, const Real* p, Real* s, Real* keep) {
        const Real r = sigmoid(x[0] + p[0]), z = sigmoid(x[1] + p[1]), n = tanh(x[2] + r * p[2]);
        s[0] = n + z * (s[0] - n);
        keep[0] = r, keep[1] = z, keep[2] = n, keep[3] = p[2];
    }
    static INLINE void backward(const Real* keep, const Real* before, const Real*, Real* ds, Real* dx, Real* dp) {
        const Real r = keep[0], z = keep[1], n = keep[2], q = keep[3], dh = ds[0];
        const Real dn = dh * (1 - z) * (1 - n * n);
        dx[0] = dp[0] = dn * q * (r * (1 - r));
        dx[1] = dp[1] = dh * (before[0] - n) * (z * (1 - z));
        dx[2] = dn;
        dp[2] = dn * r;
        ds[0] = dh * z;
    }
};

template <> struct CellOf<4> { // sLSTM
    static constexpr int gates = 4, states = 4, saved = 4, before = 14, now = 14;
    static INLINE void forward(const Real* x, const Real* p, Real* s, Real* keep) {
        const Real a_i = x[0] + p[0], a_f = x[1] + p[1], z = tanh(x[2] + p[2]), o = sigmoid(x[3] + p[3]);
        const Real l = log_sigmoid(a_f) + s[3];
        s[3] = s[2] == 0 || l <= a_i || a_i != a_i ? a_i : l; // a NaN in either stays
        const Real i = exp(a_i - s[3]), f = exp(l - s[3] > 0 ? Real(0) : l - s[3]);
        s[1] = f * s[1] + i * z;
        s[2] = f * s[2] + i < 1 ? Real(1) : f * s[2] + i;
        s[0] = o * s[1] / s[2];
        keep[0] = a_i, keep[1] = a_f, keep[2] = z, keep[3] = o;
    }
    // Whether m was a_i is recovered from m itself: if so, i is 1, else f is.
    static INLINE void backward(const Real* keep, const Real* before, const Real* now, Real* ds, Real* dx, Real* dp) {
        const Real a_i = keep[0], a_f = keep[1], z = keep[2], o = keep[3], m = now[3], l = log_sigmoid(a_f) + before[3];
        const bool begins = before[2] == 0, is_a_i = begins || a_i >= m;
        const Real i = is_a_i ? Real(1) : exp(a_i - m);
        const Real f = !is_a_i ? Real(1) : exp(l - m > 0 ? Real(0) : l - m);
        const Real dh = ds[0], h_over_o = now[1] / now[2], dc = ds[1] + dh * o / now[2];
        Real dn = ds[2] - dh * o * h_over_o / now[2];
        if (f * before[2] + i < 1) dn = 0; // clamped by max(., 1)
        const Real d_log_i = (dc * z + dn) * i;
        const Real d_log_f = begins && l > m ? Real(0) : (dc * before[1] + dn * before[2]) * f; // clamped by min(., 0)
        const Real dm = ds[3] - d_log_i - d_log_f, to_i = !is_a_i ? Real(0) : !begins && l == m ? dm / 2 : dm;
        const Real dl = d_log_f + (dm - to_i);
        dp[0] = d_log_i + to_i;
        dp[1] = dl * sigmoid(-a_f);
        dp[2] = dc * i * (1 - z * z);
        dp[3] = dh * h_over_o * (o * (1 - o));
        for (int k = 0; k < 4; ++k) dx[k] = dp[k];
        ds[0] = 0, ds[1] = dc * f, ds[2] = dn * f, ds[3] = dl;
    }
};

using Cell = CellOf<CELL>;
constexpr int G = Cell::gates, S = Cell::states, K = Cell::saved ? Cell::saved : 1; // an array has at least one element

// ---- indexing: dense vectors of all heads, one for each row and step ------------------------------------------------

struct Shape {
    int64 batch, time, heads, width, line_row, line_time;
    const int64* lengths;          // null: every row has all steps
    const int64 *starts, *offsets; // for rows packed end to end
    const unsigned char* reset;    // per row and step; null: nowhere
    Real clip_state, clip_grad;    // infinite: no clipping
    bool reverse;

    // Values in GPU memory are not validated: whatever they are, rows stay within the array, and cover all of it.
    INLINE int64 start(int64 row) const {
        return row == 0 ? 0 : row == batch ? line_row : min(max(starts[row], int64(0)), line_row);
    }
    INLINE int64 length(int64 row) const {
        return !starts && !lengths ? time
                                   : min(max(starts ? start(row + 1) - start(row) : lengths[row], int64(0)), time);
    }
    INLINE int64 line(int64 row, int64 t) const {
        return offsets ? offsets[t] + row : (starts ? start(row) : row * line_row) + t * line_time;
    }
    INLINE bool has_padding() const { return !offsets && !starts; }
    INLINE bool resets(int64 row, int64 t) const { return reset && reset[line(row, t)]; }
    INLINE bool clips() const { return !isinf(clip_state); }
    INLINE int64 at(int64 line, int64 n, int64 u, int parts = 1, int part = 0) const {
        return ((line * parts + part) * heads + n) * width + u;
    }
};
#define SHAPE_ARGUMENTS                                                                                           \
    const int64 *lengths, const int64 *starts, const int64 *offsets, const unsigned char *reset, Real clip_state, \
        Real clip_grad, int64 batch, int64 time, int64 heads, int64 width, int64 line_row, int64 line_time,       \
        int32 reverse
#define SHAPE                                                             \
    {batch,  time,    heads, width,      line_row,  line_time,   lengths, \
     starts, offsets, reset, clip_state, clip_grad, reverse != 0}

// States in their storage types: h, and the others in Real. Null: absent.
struct Given {
    const Element* h;
    const Real* others[3];
    INLINE Real operator()(int k, int64 at) const { return k == 0 ? Real(to_float(h[at])) : others[k - 1][at]; }
    INLINE Real or_zero(int k, int64 at) const { return (k == 0 ? !h : !others[k - 1]) ? Real(0) : (*this)(k, at); }
};
struct Wanted {
    Element* h;
    Real* others[3];
    INLINE void put(int k, int64 at, Real x) const {
        if (k == 0 && h) h[at] = Rounding::of(x);
        if (k > 0 && others[k - 1]) others[k - 1][at] = x;
    }
};

INLINE Real held(Real x, Real bound) { return x > bound ? bound : x < -bound ? -bound : x; } // keeps NaN
INLINE Real held_or_cut(Real x, Real bound) { return bound > 0 ? held(x, bound) : Real(0); } // and passes no bound of 0

struct Forward {
    const Element *wx, *b;
    Wanted states;
    Real* saved;
    Shape shape;
    struct Inputs {
        Real x[G];
        bool resets;
    };

    INLINE void load(int64 row, int64 t, int64 n, int64 u, Inputs& in) const {
        for (int g = 0; g < G; ++g) in.x[g] = to_float(wx[shape.at(shape.line(row, t), n, u, G, g)]);
        in.resets = shape.resets(row, t);
    }
    INLINE Real bias(int64 n, int64 u, int g) const { return b ? Real(to_float(b[shape.at(0, n, u, G, g)])) : Real(0); }
    // p: products and biases
    INLINE void step(int64 row, int64 t, int64 n, int64 u, const Inputs& in, const Real* p, Real* s) const {
        Real keep[K];
        for (int k = 0; k < S; ++k) s[k] = in.resets ? Real(0) : s[k];
        Cell::forward(in.x, p, s, keep);
        s[0] =
            to_float(Rounding::of(held(s[0], shape.clip_state))); // h' is what was returned, in every product and cell
        const int64 line = shape.line(row, t);
        for (int k = 0; k < S; ++k) states.put(k, shape.at(line, n, u), s[k]);
        if (saved)
            for (int k = 0; k < Cell::saved; ++k) saved[shape.at(line, n, u, K, k)] = keep[k];
    }
    INLINE void pad(int64 row, int64 t, int64 n, int64 u) const {
        if (shape.has_padding())
            for (int k = 0; k < S; ++k) states.put(k, shape.at(shape.line(row, t), n, u), 0);
    }
};

struct Backward {
    Given first, states;
    const Real* saved;
    Given dstates;
    Element *dwx, *dq;
    Shape shape;
    struct Inputs {
        Real before[S], now[S], keep[K], ds[S], h;
        bool resets;
    };

    INLINE void load(int64 row, int64 t, int64 n, int64 u, Inputs& in) const {
        const int64 at = shape.at(shape.line(row, t), n, u), t_before = shape.reverse ? t + 1 : t - 1;
        const bool is_first = shape.reverse ? t_before == shape.length(row) : t == 0;
        in.resets = shape.resets(row, t);
        for (int k = 0; k < S; ++k) {
            if (Cell::before >> k & 1)
                in.before[k] = is_first ? first.or_zero(k, shape.at(row, n, u))
                                        : states(k, shape.at(shape.line(row, t_before), n, u));
            if (Cell::now >> k & 1) in.now[k] = states(k, at);
            in.ds[k] = dstates.or_zero(k, at);
        }
        if (shape.clips()) in.h = states(0, at);
        for (int k = 0; k < Cell::saved; ++k) in.keep[k] = saved[shape.at(shape.line(row, t), n, u, K, k)];
    }
    INLINE void step(int64 row, int64 t, int64 n, int64 u, Inputs& in, Real* ds, Real* dp) const {
        Real dx[G];
        for (int k = 0; k < S; ++k) {
            ds[k] += in.ds[k];
            if (in.resets) in.before[k] = 0;
        }
        if (shape.clips() && !(in.h < shape.clip_state && in.h > -shape.clip_state)) ds[0] = 0;
        Cell::backward(in.keep, in.before, in.now, ds, dx, dp);
        for (int k = 0; k < S; ++k) ds[k] = in.resets ? Real(0) : ds[k];
        const int64 line = shape.line(row, t);
        for (int g = 0; g < G; ++g) dwx[shape.at(line, n, u, G, g)] = Rounding::of(dx[g]);
        if (dq) dq[shape.at(line, n, u)] = Rounding::of(dp[G - 1]);
    }
    INLINE void pad(int64 row, int64 t, int64 n, int64 u) const {
        if (!shape.has_padding()) return;
        const int64 line = shape.line(row, t);
        for (int g = 0; g < G; ++g) dwx[shape.at(line, n, u, G, g)] = Rounding::of(0);
        if (dq) dq[shape.at(line, n, u)] = Rounding::of(0);
    }
};
