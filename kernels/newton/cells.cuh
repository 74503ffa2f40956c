// The prefix of newton.cu, after device.cuh: the diagonal cells for one unit, the addresses of a step's data, and
// linear recurrences along time. docs/newton/theory.md has the equations.
//
// Defines: REAL, float or double; CELL, the cell's number in fastiter.newton._cells, ParaGRU or ParaLSTM; UNITS, the
// number of contiguous units that fill 32 bytes, the granularity of memory transfers; CHUNK, consecutive steps per
// thread.
#pragma once
using Real = REAL;

// ---- The cells. s: the states before the step; parts: intermediate values; j: Jacobian of the states after with
// respect to those before; ds: gradients of the states after; dx: gradients of x; dw: gradients of a, then of p.

INLINE Real sigmoid(Real x) {
    const Real e = exp(x < 0 ? x : -x);
    return (x < 0 ? e : Real(1)) / (Real(1) + e);
}
INLINE Real slope_of_sigmoid(Real s) { return s * (1 - s); }
INLINE Real slope_of_tanh(Real s) { return 1 - s * s; }

template <int Code> struct CellOf;

template <> struct CellOf<0> { // ParaGRU
    static constexpr int gates = 3, states = 1, peepholes = 0;
    Real z, r, q;

    INLINE void begin(const Real* x, const Real* a, const Real*, const Real* s) {
        z = sigmoid(a[0] * s[0] + x[0]);
        r = sigmoid(a[1] * s[0] + x[1]);
        q = tanh(a[2] * s[0] * r + x[2]);
    }
    INLINE void after(const Real* s, Real* y) const { y[0] = z * q + (1 - z) * s[0]; }
    INLINE void jacobian(const Real* a, const Real*, const Real* s, Real (&j)[1][1]) const {
        const Real h = s[0], by_z = (q - h) * slope_of_sigmoid(z) * a[0];
        j[0][0] = (1 - z) + by_z + z * slope_of_tanh(q) * a[2] * (r + h * slope_of_sigmoid(r) * a[1]);
    }
    INLINE void gradient(const Real* a, const Real*, const Real* s, const Real* ds, Real* dx, Real* dw) const {
        const Real h = s[0], dh = ds[0];
        dx[0] = dh * (q - h) * slope_of_sigmoid(z);
        dx[2] = dh * z * slope_of_tanh(q);
        dx[1] = dx[2] * a[2] * h * slope_of_sigmoid(r);
        dw[0] = dx[0] * h;
        dw[1] = dx[1] * h;
        dw[2] = dx[2] * h * r;
    }
};

template <> struct CellOf<1> { // ParaLSTM
    static constexpr int gates = 3, states = 2, peepholes = 2;
    Real f, o, q, c, tanh_c; // c after the step

    INLINE void begin(const Real* x, const Real* a, const Real* p, const Real* s) {
        f = sigmoid(a[0] * s[0] + p[0] * s[1] + x[0]);
        q = tanh(a[2] * s[0] + x[2]);
        c = f * s[1] + (1 - f) * q;
        o = sigmoid(a[1] * s[0] + p[1] * c + x[1]);
        tanh_c = tanh(c);
    }
    INLINE void after(const Real*, Real* y) const {
        y[0] = o * tanh_c;
        y[1] = c;
    }
    INLINE void jacobian(const Real* a, const Real* p, const Real* s, Real (&j)[2][2]) const {
        const Real by_f = (s[1] - q) * slope_of_sigmoid(f), by_o = tanh_c * slope_of_sigmoid(o);
        const Real h_by_c = by_o * p[1] + o * slope_of_tanh(tanh_c);
        j[1][0] = by_f * a[0] + (1 - f) * slope_of_tanh(q) * a[2];
        j[1][1] = by_f * p[0] + f;
        j[0][0] = by_o * a[1] + h_by_c * j[1][0];
        j[0][1] = h_by_c * j[1][1];
    }
    INLINE void gradient(const Real*, const Real* p, const Real* s, const Real* ds, Real* dx, Real* dw) const {
        dx[1] = ds[0] * tanh_c * slope_of_sigmoid(o);
        const Real dc = ds[1] + ds[0] * o * slope_of_tanh(tanh_c) + dx[1] * p[1];
        dx[0] = dc * (s[1] - q) * slope_of_sigmoid(f);
        dx[2] = dc * (1 - f) * slope_of_tanh(q);
        for (int g = 0; g < 3; ++g) dw[g] = dx[g] * s[0];
        dw[3] = dx[0] * s[1];
        dw[4] = dx[1] * c;
    }
};

using Cell = CellOf<CELL>;
constexpr int G = Cell::gates, S = Cell::states, P = Cell::peepholes, U = UNITS, C = CHUNK;

// ---- Indexing: a block has UNITS units of one row, a thread CHUNK steps of one of them ------------------------------

struct Steps {
    Real* data;
    int64 row, time, gate;
};

struct Shape {
    int64 batch, time, width;
    const int64* lengths; // null: every row has all steps
    bool reverse;
};
#define SHAPE_ARGUMENTS const int64 *lengths, int64 batch, int64 time, int64 width, int32 reverse
#define SHAPE {batch, time, width, lengths, reverse != 0}

struct Place {
    const Shape shape;
    const int64 blocks = (shape.width + U - 1) / U, row = blockIdx.x / blocks; // blocks per row
    const int u = int(threadIdx.x) % U, k = int(threadIdx.x) / U;              // the unit, the chunk
    const int64 unit = blockIdx.x % blocks * U + u, length = shape.lengths ? shape.lengths[row] : shape.time;
    const bool is_here = unit < shape.width;

    INLINE explicit Place(const Shape& shape) : shape(shape) {}

    INLINE int64 state(int s) const { return (s * shape.batch + row) * shape.width + unit; } // in the layout (S, B, D)
    // Step i in the order of computation
    INLINE Real* at(const Steps& x, int64 i, int gate = 0) const {
        return x.data + row * x.row + (shape.reverse ? length - 1 - i : i) * x.time + gate * x.gate + unit;
    }
    INLINE void load_weights(const Real* a, const Real* p, Real (&a_u)[G], Real (&p_u)[P + 1]) const {
        for (int g = 0; g < G; ++g) a_u[g] = is_here ? a[g * shape.width + unit] : Real(0);
        for (int g = 0; g < P; ++g) p_u[g] = is_here ? p[g * shape.width + unit] : Real(0);
    }
    INLINE void load_state(const Real* x, Real (&s)[S]) const {
        for (int i = 0; i < S; ++i) s[i] = x && is_here ? x[state(i)] : Real(0);
    }
    // Sets the steps after a row's last one to zero.
    INLINE void pad(const Steps& x, int gates = 1) const {
        if (!x.data || !is_here) return;
        for (int64 t = length + k; t < shape.time; t += blockDim.x / U)
            for (int g = 0; g < gates; ++g) x.data[row * x.row + t * x.time + g * x.gate + unit] = 0;
    }
};

// ---- Scans: v[i] = m[i] v[i-1] + b[i] over the steps of a window, one chunk per thread of a block. Chunks are
// composed by shuffles within a warp, and warps through shared memory. The order of all operations is fixed.

// The map v -> m v + b, where + is Join
struct Map {
    Real m[S][S], b[S];
};

// The operation Join: addition in a recurrence; the value of larger magnitude in a search for the largest contribution.
struct Add {
    static INLINE Real of(Real x, Real y) { return x + y; }
};
struct Larger {
    static INLINE Real of(Real x, Real y) { return abs(x) < abs(y) ? y : x; } // keeps a NaN x
};

INLINE Map identity() {
    Map x = {};
    for (int i = 0; i < S; ++i) x.m[i][i] = 1;
    return x;
}

INLINE void multiply(const Real (&m)[S][S], Real (&v)[S]) {
    Real y[S] = {};
    for (int i = 0; i < S; ++i)
        for (int l = 0; l < S; ++l) y[i] += m[i][l] * v[l];
    for (int i = 0; i < S; ++i) v[i] = y[i];
}

template <class Join> INLINE void apply(const Map& map, Real (&v)[S]) {
    multiply(map.m, v);
    for (int i = 0; i < S; ++i) v[i] = Join::of(v[i], map.b[i]);
}

// Composes `map` with m, which is applied after it; the caller composes b.
INLINE void follow(const Real (&m)[S][S], Map& map) {
    for (int l = 0; l < S; ++l) {
        Real column[S];
        for (int i = 0; i < S; ++i) column[i] = map.m[i][l];
        multiply(m, column);
        for (int i = 0; i < S; ++i) map.m[i][l] = column[i];
    }
    multiply(m, map.b);
}

// Replaces `map` by its composition after `earlier`.
template <class Join> INLINE void put_before(const Map& earlier, Map& map) {
    Map both = earlier;
    follow(map.m, both);
    for (int i = 0; i < S; ++i) both.b[i] = Join::of(both.b[i], map.b[i]);
    map = both;
}

INLINE Map from_below(const Map& x, int by) {
    Map y;
    for (int i = 0; i < S; ++i) {
        y.b[i] = from_lane_below(x.b[i], by);
        for (int l = 0; l < S; ++l) y.m[i][l] = from_lane_below(x.m[i][l], by);
    }
    return y;
}

// Maps v before the window to v before this thread's chunk, whose composition is `own`. totals: (warps, U) in shared
// memory, unused on entry. keep_in(v, k) may clamp the input of chunk k. Synchronises the block once.
template <class Join, class F> INLINE void enter(Map own, Real (&v)[S], Map* totals, F keep_in) {
    constexpr int chunks = 32 / U; // per warp
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    for (int by = U; by < 32; by *= 2) {
        const Map below = from_below(own, by);
        if (lane >= by) put_before<Join>(below, own);
    }
    if (lane >= 32 - U) totals[warp * U + lane % U] = own;
    block_barrier();
    for (int w = 0; w < warp; ++w) {
        apply<Join>(totals[w * U + lane % U], v);
        keep_in(v, (w + 1) * chunks);
    }
    const Map below = from_below(own, U);
    if (lane < U) return;
    apply<Join>(below, v);
    keep_in(v, warp * chunks + lane / U);
}
