// The prefix of the relaxation kernels with a matrix: number types, phases, work items of warps, SELL slices.
#ifdef MATRIX
#ifndef SYSTEMS
#define SYSTEMS 0
#endif
struct Complex {
    double re, im;
};
INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
INLINE Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
INLINE Complex operator*(double a, Complex b) { return {a * b.re, a * b.im}; }

using A = MATRIX;
using V = VECTOR;
template <class T> struct SumOf {
    using type = double;
};
template <> struct SumOf<Complex> {
    using type = Complex;
};
using S = SumOf<V>::type;

INLINE double wide(float x) { return double(x); }
INLINE double wide(double x) { return x; }
INLINE Complex wide(Complex x) { return x; }
INLINE void assign(float& to, double x) { to = float(x); }
INLINE void assign(double& to, double x) { to = x; }
INLINE void assign(Complex& to, Complex x) { to = x; }
INLINE double square(double x) { return x * x; }
INLINE double square(Complex x) { return x.re * x.re + x.im * x.im; }
INLINE double from_xor(double x, int mask) { return from_lane_xor(x, mask); }
INLINE Complex from_xor(Complex x, int mask) { return {from_lane_xor(x.re, mask), from_lane_xor(x.im, mask)}; }
INLINE double from(double x, int lane) { return from_lane(x, lane); }
INLINE Complex from(Complex x, int lane) { return {from_lane(x.re, lane), from_lane(x.im, lane)}; }
template <class T> INLINE T newest(const T* x) { return load_shared_by_grid(x); }
INLINE Complex newest(const Complex* x) {
    const double* parts = reinterpret_cast<const double*>(x);
    return {load_shared_by_grid(parts), load_shared_by_grid(parts + 1)};
}

enum Kind { FORWARD, BACKWARD, SYMMETRIC, JACOBI };

// The colour of a phase
INLINE int32 colour_of(int64 phase, int32 colours, int32 kind) {
    const int32 turn = int32(phase % (kind == SYMMETRIC ? 2 * colours : colours));
    if (kind == SYMMETRIC) return turn < colours ? turn : 2 * colours - 1 - turn;
    return kind == BACKWARD ? colours - 1 - turn : turn;
}

struct Vectors {
    const V* b;
    const V* x;
    V* y;
    int64 k;
    double omega;
    bool together; // x may have been written in this launch
    int64 rows;    // rows of a system
    INLINE int64 place(int64 row, int64 column) const { return SYSTEMS ? column * rows + row : row * k + column; }
    INLINE S at(int64 index) const { return wide(together ? newest(x + index) : x[index]); }
    INLINE void relax(int64 index, S z) const {
        const double keep = 1 - omega;
        S now = omega * z;
        if (keep != 0) now = now + keep * at(index);
        assign(y[index], now);
    }
};

// Calls f(vectors, colour) for every phase of this launch.
template <class F>
INLINE void for_phases(const V* b, V* x, V* y, const double* omega, int64 k, int64 rows, int32 colours, int32 kind,
                       int64 first, int64 last, uint32* arrived, F f) {
    Vectors v{b, x, y, k, *omega, arrived != nullptr, rows};
    for (int64 phase = first; phase < last; ++phase) {
        const bool swapped = kind == JACOBI && phase % 2;
        v.x = swapped ? y : x;
        v.y = swapped || kind != JACOBI ? x : y;
        f(v, colour_of(phase, colours, kind));
        if (phase + 1 < last) grid_barrier(arrived, uint32(phase + 1 - first) * gridDim.x);
    }
}

// Calls f(item, first column, columns) for the items [begin, end) and all tiles of columns, one warp each.
template <class F> INLINE void for_items(int64 begin, int64 end, int64 k, F f) {
    const int64 tiles = (k + COLUMNS - 1) / COLUMNS, warps = int64(gridDim.x) * (blockDim.x / 32);
    const int64 own = int64(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    for (int64 task = own; task < (end - begin) * tiles; task += warps) {
        const int64 column = task % tiles * COLUMNS;
        f(begin + task / tiles, column, int(min(int64(COLUMNS), k - column)));
    }
}

// Stores the warp's sum of a norm's parts, always added in the same order.
INLINE void store_norms(const double (&parts)[COLUMNS], double* norms, int64 item, int64 k, int64 column, int columns) {
    for (int c = 0; c < COLUMNS; ++c) {
        double sum = parts[c];
        for (int mask = 16; mask > 0; mask /= 2) sum += from_lane_xor(sum, mask);
        if (threadIdx.x % 32 == 0 && c < columns) norms[item * k + column + c] = sum;
    }
}

// A slice (SELL) is the work of one warp: r rows with the same number of lanes, a power of two. Entry j of a row
// belongs to lane j % lanes of the row; entry e of lane l of the warp is at slice_entry + 32 e + l, so that reads are
// coalesced. Lanes with fewer entries are padded with a repeated column and the value 0. The diagonal is stored
// separately.
struct Slices {
    const int32* slice_row;   // (slices + 1) first row of each
    const int64* slice_entry; // (slices + 1)
    const int32* column;
    const A* value;
    int64 entries = 0; // per system
    INLINE Slices(const int32* slice_row, const int64* slice_entry, const int32* column, const A* value, int64 slices)
        : slice_row(slice_row), slice_entry(slice_entry), column(column), value(value) {
        if (SYSTEMS) entries = slice_entry[slices];
    }
};

struct Slice {
    int64 row; // this lane's row
    int lanes; // per row
    bool leads;
    INLINE Slice(const Slices& m, int64 s) {
        const int32 first = m.slice_row[s], rows = m.slice_row[s + 1] - first, lane = threadIdx.x % 32;
        for (lanes = 32; lanes * rows > 32;) lanes /= 2;
        leads = lane % lanes == 0 && lane / lanes < rows;
        row = first + min(lane / lanes, rows - 1);
    }
};
#endif
