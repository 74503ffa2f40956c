// The prefix of every .cu in this folder, after device.cuh: the cells for one unit, forward and backward, and the
// addresses of a step's data. docs/rnn/theory.md has the equations.
//
// Defines: ELEMENT, the storage type: float, double, BFloat16 or Half. Arithmetic, the states other than h, saved
// values, and the gradients of the final and initial states are in Real. CELL, the cell's number in fastiter._rnn.
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

// ---- The cells for one unit. x, p: gates of wx and of r h' + b; s: states before, then after; keep: saved values;
// ds: gradients of the states after, then before, without the path through r; dx, dp: gradients of x and p.

// Double uses the library. Float uses no branch or call, which would separate the operations of several units: the
// error is at most 4 ulp, as the hardware's reciprocal has at most 1 ulp.
INLINE double reciprocal(double x) { return 1 / x; }
INLINE Real sigmoid(Real x) { return reciprocal(Real(1) + exp(-x)); } // 0 where it is below 2^-126
INLINE double hyperbolic_tangent(double x) { return tanh(x); }
INLINE float hyperbolic_tangent(float x) {
    const float y = fabsf(x), e = exp(-2.0f * y), z = x * x;
    // (tanh x - x) / x^3 as a polynomial in x^2, from a minimax fit on 0 .. 0.6 with an error of 0.1 ulp in tanh x.
    float small = fma(z, -5.89515874e-3f, 2.0795973e-2f);
    small = fma(z, fma(z, fma(z, small, -5.37838303e-2f), 1.33319244e-1f), -3.33332986e-1f);
    return either(y < 0.55f, fma(x * z, small, x), copysignf((1.0f - e) * reciprocal(1.0f + e), x));
}
INLINE Real log_sigmoid(Real x) { return (x < 0 ? x : Real(0)) - log1p(exp(x < 0 ? x : -x)); }

template <int Code> struct CellOf { // Elman. 0, 1: h = hyperbolic_tangent(a) or max(a, 0)
    static constexpr int gates = 1, states = 1, saved = 0, before = 0, now = 1; // before, now: masks of the states read
    static INLINE void forward(const Real* x, const Real* p, Real* s, Real*) {
        const Real a = x[0] + p[0];
        s[0] = Code == 0 ? hyperbolic_tangent(a) : a < 0 ? Real(0) : a;
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
        const Real i = sigmoid(x[0] + p[0]), f = sigmoid(x[1] + p[1]), g = hyperbolic_tangent(x[2] + p[2]),
                   o = sigmoid(x[3] + p[3]);
        s[1] = f * s[1] + i * g;
        s[0] = o * hyperbolic_tangent(s[1]);
        keep[0] = i;
        keep[1] = f;
        keep[2] = g;
        keep[3] = o;
    }
    static INLINE void backward(const Real* keep, const Real* before, const Real* now, Real* ds, Real* dx, Real* dp) {
        const Real i = keep[0], f = keep[1], g = keep[2], o = keep[3], tanh_c = hyperbolic_tangent(now[1]);
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
        const Real r = sigmoid(x[0] + p[0]), z = sigmoid(x[1] + p[1]), n = hyperbolic_tangent(x[2] + r * p[2]);
        s[0] = n + z * (s[0] - n);
        keep[0] = r;
        keep[1] = z;
        keep[2] = n;
        keep[3] = p[2];
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
        const Real a_i = x[0] + p[0], a_f = x[1] + p[1], z = hyperbolic_tangent(x[2] + p[2]), o = sigmoid(x[3] + p[3]);
        const Real l = log_sigmoid(a_f) + s[3];
        s[3] = s[2] == 0 || l <= a_i || a_i != a_i ? a_i : l; // propagates a NaN in either
        const Real i = exp(a_i - s[3]), f = exp(l - s[3] > 0 ? Real(0) : l - s[3]);
        s[1] = f * s[1] + i * z;
        s[2] = f * s[2] + i < 1 ? Real(1) : f * s[2] + i;
        s[0] = o * s[1] / s[2];
        keep[0] = a_i;
        keep[1] = a_f;
        keep[2] = z;
        keep[3] = o;
    }
    // Whether m was a_i is recovered from m itself: if so, i is 1, otherwise f is 1.
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
        ds[0] = 0;
        ds[1] = dc * f;
        ds[2] = dn * f;
        ds[3] = dl;
    }
};

using Cell = CellOf<CELL>;
constexpr int G = Cell::gates, S = Cell::states, K = Cell::saved ? Cell::saved : 1; // an array has at least one element

// ---- Indexing: dense vectors of all heads, one for each row and step ------------------------------------------------

// PLAIN: all rows have all steps, at constant strides, without resets and clipping, so that no step checks for them.
#ifndef PLAIN
#define PLAIN 0
#endif

struct Place {  // an element of the vector of a row and step
    int64 line; // offset of the vector in an array with one vector per line
    int64 unit; // offset of the element in the vector
};

struct Shape {
    int64 batch, time, heads, width, line_row, line_time;
    const int64* lengths;          // null: every row has all steps
    const int64 *starts, *offsets; // for concatenated and for packed rows
    const unsigned char* reset;    // per row and step; null: nowhere
    Real clip_state, clip_grad;    // infinity: no clipping
    bool reverse;
    int64 pitch; // elements per vector

    // Values in GPU memory are not validated: whatever they are, rows are within the array and cover all of it.
    INLINE int64 start(int64 row) const {
        return row == 0 ? 0 : row == batch ? line_row : min(max(starts[row], int64(0)), line_row);
    }
    INLINE int64 length(int64 row) const {
        return PLAIN || (!starts && !lengths)
                   ? time
                   : min(max(starts ? start(row + 1) - start(row) : lengths[row], int64(0)), time);
    }
    INLINE int64 line(int64 row, int64 t) const {
        if (PLAIN) return row * line_row + t * line_time;
        return offsets ? offsets[t] + row : (starts ? start(row) : row * line_row) + t * line_time;
    }
    INLINE bool has_padding() const { return !PLAIN && !offsets && !starts; }
    INLINE bool resets(int64 row, int64 t) const { return !PLAIN && reset && reset[line(row, t)]; }
    INLINE bool clips() const { return !PLAIN && !isinf(clip_state); }
    INLINE Real clipped(Real x) const { // keeps NaN
        return PLAIN ? x : x > clip_state ? clip_state : x < -clip_state ? -clip_state : x;
    }
    INLINE Real clipped_gradient(Real x) const { // a bound of 0 passes nothing, not even NaN
        if (PLAIN) return x;
        return clip_grad > 0 ? (x > clip_grad ? clip_grad : x < -clip_grad ? -clip_grad : x) : Real(0);
    }
    INLINE Place place(int64 row, int64 t, int64 n, int64 u) const {
        if (PLAIN) return {row * (line_row * pitch) + t * (line_time * pitch), n * width + u};
        return {line(row, t) * pitch, n * width + u};
    }
    INLINE int64 at(const Place& own, int parts = 1, int part = 0) const {
        return own.line * parts + (part * pitch + own.unit);
    }
    INLINE int64 of_row(int64 row, int64 n, int64 u) const { return row * pitch + n * width + u; }
};
#define SHAPE_ARGUMENTS                                                                                           \
    const int64 *lengths, const int64 *starts, const int64 *offsets, const unsigned char *reset, Real clip_state, \
        Real clip_grad, int64 batch, int64 time, int64 heads, int64 width, int64 line_row, int64 line_time,       \
        int32 reverse
#define SHAPE                                                              \
    {batch,  time,    heads, width,      line_row,  line_time,    lengths, \
     starts, offsets, reset, clip_state, clip_grad, reverse != 0, heads * width}

// States in their storage types: h in Element, the others in Real. They are not converted when they are loaded, since a
// conversion would wait for the load. Null pointers are absent states.
struct Stored {
    Element h;
    Real others[3];
    INLINE Real operator[](int k) const { return k == 0 ? Real(to_float(h)) : others[k - 1]; }
};
struct Optional {
    const Element* h;
    const Real* others[3];
    INLINE void read(int k, int64 at, Stored& to) const {
        if (k == 0)
            to.h = h ? h[at] : Rounding::of(0);
        else
            to.others[k - 1] = others[k - 1] ? others[k - 1][at] : Real(0);
    }
    INLINE Optional or_else(bool these, const Optional& those) const { // member by member, to stay in registers
        return {these ? h : those.h,
                {these ? others[0] : those.others[0], these ? others[1] : those.others[1],
                 these ? others[2] : those.others[2]}};
    }
    INLINE Real or_zero(int k, int64 at) const {
        return k == 0 ? (h ? Real(to_float(h[at])) : Real(0)) : others[k - 1] ? others[k - 1][at] : Real(0);
    }
};
struct Wanted {
    Element* h;
    Real* others[3];
    INLINE void put(int k, int64 at, Real x) const {
        if (k == 0 && h) h[at] = Rounding::of(x);
        if (k > 0 && others[k - 1]) others[k - 1][at] = x;
    }
};

struct Forward {
    const Element *wx, *b;
    Wanted states;
    Real* saved;
    Shape shape;
    struct Loaded {
        Element x[G];
        bool resets;
    };
    struct Inputs {
        Real x[G];
        bool resets;
        Inputs() = default;
        INLINE explicit Inputs(const Loaded& from) : resets(from.resets) {
            for (int g = 0; g < G; ++g) x[g] = to_float(from.x[g]);
        }
    };
    // The addresses of a unit of a row and step; PLAIN rows have constant strides, so that they advance by an addition.
    struct Source {
        const Element* x;
        bool resets;
        INLINE void advance(int64 by) { x += by * G; }
    };
    struct Target {
        Wanted states;
        Real* saved;
        INLINE void advance(int64 by) {
            states.h += by;
            for (int k = 0; k < S - 1; ++k) states.others[k] += by;
            saved += by * K;
        }
    };
    INLINE Source source(int64 row, int64 t, int64 n, int64 u) const {
        return {wx + shape.at(shape.place(row, t, n, u), G, 0), shape.resets(row, t)};
    }
    INLINE Target target(int64 row, int64 t, int64 n, int64 u) const {
        const Place own = shape.place(row, t, n, u);
        const int64 at = shape.at(own);
        return {{states.h + at, {states.others[0] + at, states.others[1] + at, states.others[2] + at}},
                saved + shape.at(own, K, 0)};
    }
    INLINE int64 stride() const { // from a step to the next one
        int64 by = shape.line_time * shape.pitch * (shape.reverse ? -1 : 1);
        keep_in_register(by);
        return by;
    }
    INLINE void load(const Source& own, Loaded& in) const {
        for (int g = 0; g < G; ++g) in.x[g] = own.x[g * shape.pitch];
        in.resets = own.resets;
    }
    INLINE Real bias(int64 n, int64 u, int g) const {
        return b ? Real(to_float(b[(g * shape.heads + n) * shape.width + u])) : Real(0);
    }
    // p: products plus biases; s: the states before, then after; keep: values saved for the backward pass
    INLINE void step(const Inputs& in, const Real* p, Real* s, Real* keep) const {
        for (int k = 0; k < S; ++k) s[k] = in.resets ? Real(0) : s[k];
        Cell::forward(in.x, p, s, keep);
        s[0] = to_float(Rounding::of(shape.clipped(s[0]))); // every product and cell uses the rounded h'
    }
    INLINE void store(const Target& own, const Real* s, const Real* keep) const {
        if (states.h) *own.states.h = Rounding::of(s[0]);
        for (int k = 1; k < S; ++k)
            if (states.others[k - 1]) *own.states.others[k - 1] = s[k];
        if (saved)
            for (int k = 0; k < Cell::saved; ++k) own.saved[k * shape.pitch] = keep[k];
    }
    INLINE void pad(int64 row, int64 t, int64 n, int64 u) const {
        if (shape.has_padding())
            for (int k = 0; k < S; ++k) states.put(k, shape.at(shape.place(row, t, n, u)), 0);
    }
};

struct Backward {
    Optional first, states;
    const Real* saved;
    Optional dstates;
    Element *dwx, *dq;
    Shape shape;
    struct Inputs {
        Stored before, now, ds;
        Real keep[K];
        Element h;
        bool resets;
    };

    INLINE void load(int64 row, int64 t, int64 n, int64 u, Inputs& in) const {
        const int64 t_before = shape.reverse ? t + 1 : t - 1;
        const bool is_first = shape.reverse ? t_before == shape.length(row) : t == 0;
        const Place own = shape.place(row, t, n, u);
        const int64 at = shape.at(own);
        const int64 at_before = is_first ? shape.of_row(row, n, u) : shape.at(shape.place(row, t_before, n, u));
        const Optional entering = first.or_else(is_first, states);
        in.resets = shape.resets(row, t);
        for (int k = 0; k < S; ++k) {
            if (Cell::before >> k & 1) entering.read(k, at_before, in.before);
            if (Cell::now >> k & 1) states.read(k, at, in.now);
            dstates.read(k, at, in.ds);
        }
        if (shape.clips()) in.h = states.h[at];
        for (int k = 0; k < Cell::saved; ++k) in.keep[k] = saved[shape.at(own, K, k)];
    }
    // ds: the gradients of the states after, then before, without the path through r; dx, dp: of wx and of the products
    INLINE void step(const Inputs& in, Real* ds, Real* dx, Real* dp) const {
        Real before[S], now[S];
        for (int k = 0; k < S; ++k) {
            ds[k] += in.ds[k];
            before[k] = in.resets || !(Cell::before >> k & 1) ? Real(0) : in.before[k];
            now[k] = Cell::now >> k & 1 ? in.now[k] : Real(0);
        }
        if (shape.clips() && !(to_float(in.h) < shape.clip_state && to_float(in.h) > -shape.clip_state)) ds[0] = 0;
        Cell::backward(in.keep, before, now, ds, dx, dp);
        for (int k = 0; k < S; ++k) ds[k] = in.resets ? Real(0) : ds[k];
    }
    INLINE void store(int64 row, int64 t, int64 n, int64 u, const Real* dx, const Real* dp) const {
        const Place own = shape.place(row, t, n, u);
        for (int g = 0; g < G; ++g) dwx[shape.at(own, G, g)] = Rounding::of(dx[g]);
        if (dq) dq[shape.at(own)] = Rounding::of(dp[G - 1]);
    }
    INLINE void pad(int64 row, int64 t, int64 n, int64 u) const {
        const Real zeros[G] = {};
        if (shape.has_padding()) store(row, t, n, u, zeros, zeros);
    }
};
