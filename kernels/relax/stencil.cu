// Relaxation without a matrix: a 5-point stencil on a grid (n0, 1, n2), or a 7-point one on (n0, n1, n2), contiguous
// along n2; x is 0 outside the grid. y = (1 - omega) x + omega (b - the terms of the neighbours) / the first
// coefficient, either everywhere from the old x (Jacobi: y is a separate buffer), or at the points of one red-black
// colour (y is x).
//
// A thread processes `depth` points of a column of the grid along axis 0 in sequence: neighbours along the column stay
// in registers, those across it in cache. Phases, `arrived` and RESIDENT are as in sweeps.cu. Define: NUMBER, float or
// double.
using T = NUMBER;
enum Kind { FORWARD, BACKWARD, SYMMETRIC, JACOBI };

struct Grid {
    int64 n0;
    int32 n1, n2;
    const T* coefficient;       // (7) or (7, points): the point itself, then its neighbours along axes 0, 1 and 2
    const T* inverse;           // (points), for variable coefficients: 1 / the first one, 0 where x is given
    const unsigned char* fixed; // (points), for constant coefficients: 1 where x is given; null: nowhere
    INLINE int64 area() const { return int64(n1) * n2; }
};

template <bool Together> INLINE T read(const T* x) { return Together ? load_shared_by_grid(x) : *x; }

// One column of points: its offset in a plane, and which neighbours in the plane exist
struct Column {
    int64 area, at;
    int32 parity, n2;
    bool has[4];
    INLINE Column(const Grid& m, int64 place) : area(m.area()), at(place), n2(m.n2) {
        const int32 line = int32(place / m.n2), i = int32(place % m.n2);
        parity = (line + i) & 1;
        has[0] = line > 0;
        has[1] = line + 1 < m.n1;
        has[2] = i > 0;
        has[3] = i + 1 < m.n2;
    }
};

// sum + the terms of the neighbours in the plane, with factor(q) for neighbour q
template <bool Together, class F> INLINE T add_across(const Column& own, const T* x, T sum, F factor) {
    const int64 step[4] = {-int64(own.n2), own.n2, -1, 1};
    for (int q = 0; q < 4; ++q)
        if (own.has[q]) sum = fma(factor(3 + q), read<Together>(x + step[q]), sum);
    return sum;
}

// b minus the terms of all neighbours
template <bool Variable, bool Together>
INLINE T sum_of(const Grid& m, const Column& own, const T* x, T b, T before, T after, int64 index) {
    const int64 points = m.n0 * own.area;
    auto factor = [&](int q) { return -m.coefficient[Variable ? q * points + index : q]; };
    T sum = fma(factor(1), before, b);
    sum = fma(factor(2), after, sum);
    return add_across<Together>(own, x + index, sum, factor);
}

// Constant coefficients, in registers: keep x + scale b + the terms of the neighbours, one fused operation each
struct Folded {
    T keep, scale, omega, factor[7];
    INLINE Folded(const Grid& m, double by, bool variable)
        : keep(T(1 - by)), scale(variable ? T(0) : T(by) * (T(1) / m.coefficient[0])), omega(T(by)) {
        for (int q = 1; q < 7; ++q) factor[q] = variable ? T(0) : -scale * m.coefficient[q];
    }
};

template <bool Variable, bool Together>
INLINE void relax_point(const Grid& m, const Folded& f, const Column& own, const T* b, const T* x, T* y, T before,
                        T now, T after, int64 index) {
    if (Variable) {
        const T inverse = m.inverse[index];
        const T z = inverse * sum_of<true, Together>(m, own, x, b[index], before, after, index);
        if (inverse == 0)
            y[index] = now;
        else
            y[index] = f.keep != 0 ? f.keep * now + f.omega * z : z;
        return;
    }
    T sum = fma(f.factor[1], before, f.scale * b[index]);
    sum = fma(f.factor[2], after, sum);
    sum = add_across<Together>(own, x + index, sum, [&](int q) { return f.factor[q]; });
    if (f.keep != 0) sum = fma(f.keep, now, sum);
    y[index] = m.fixed && m.fixed[index] ? now : sum;
}

// Calls f(column, first plane, last plane, item) for all work of this block; an item is blockDim.x columns of `depth`
// planes.
template <class F> INLINE void for_columns(const Grid& m, int32 depth, F f) {
    const int64 tiles = (m.area() + blockDim.x - 1) / blockDim.x, items = tiles * ((m.n0 + depth - 1) / depth);
    for (int64 item = blockIdx.x; item < items; item += gridDim.x) {
        const int64 place = item % tiles * blockDim.x + threadIdx.x, first = item / tiles * depth;
        f(place, first, min(m.n0, first + depth), item);
    }
}

// One phase: all points, or with step 2 the points of one colour. Each x along the column is read once.
template <bool Variable, bool Together>
INLINE void relax_phase(const Grid& m, const Folded& f, const T* b, const T* x, T* y, int32 depth, int32 colour,
                        int32 step) {
    for_columns(m, depth, [&](int64 place, int64 first, int64 last, int64) {
        if (place >= m.area()) return;
        const Column own(m, place);
        const int64 start = step == 1 ? first : first + ((first + own.parity + colour) & 1);
        T before = start > 0 && start < last ? read<Together>(x + (start - 1) * own.area + place) : T(0);
        T now = start < last && step == 1 ? read<Together>(x + start * own.area + place) : T(0);
        for (int64 plane = start; plane < last; plane += step) {
            const int64 index = plane * own.area + place;
            const T after = plane + 1 < m.n0 ? read<Together>(x + index + own.area) : T(0);
            if (step == 2) now = read<Together>(x + index);
            relax_point<Variable, Together>(m, f, own, b, x, y, before, now, after, index);
            before = step == 1 ? now : after;
            now = after;
        }
    });
}

// A phase of Jacobi's method with constant coefficients; all loads of some planes are issued before their first store.
template <bool Together>
INLINE void jacobi_phase(const Grid& m, const Folded& f, const T* __restrict__ b, const T* __restrict__ x,
                         T* __restrict__ y, int32 depth) {
    constexpr int planes = sizeof(T) == 4 ? 2 : 1;
    for_columns(m, depth, [&](int64 place, int64 first, int64 last, int64) {
        if (place >= m.area() || first >= last) return;
        const Column own(m, place);
        const int64 step[4] = {-int64(own.n2), own.n2, -1, 1};
        T before = first > 0 ? read<Together>(x + (first - 1) * own.area + place) : T(0);
        T now = read<Together>(x + first * own.area + place);
        for (int64 plane = first; plane < last; plane += planes) {
            T after[planes], across[planes][4], right[planes];
#pragma unroll
            for (int i = 0; i < planes; ++i) {
                const int64 index = (plane + i) * own.area + place;
                const bool is_here = plane + i < last;
                after[i] = is_here && plane + i + 1 < m.n0 ? read<Together>(x + index + own.area) : T(0);
                right[i] = is_here ? b[index] : T(0);
                for (int q = 0; q < 4; ++q)
                    across[i][q] = is_here && own.has[q] ? read<Together>(x + index + step[q]) : T(0);
            }
#pragma unroll
            for (int i = 0; i < planes; ++i) {
                T sum = fma(f.factor[1], before, f.scale * right[i]);
                sum = fma(f.factor[2], after[i], sum);
                for (int q = 0; q < 4; ++q)
                    if (own.has[q]) sum = fma(f.factor[3 + q], across[i][q], sum);
                if (f.keep != 0) sum = fma(f.keep, now, sum);
                const int64 index = (plane + i) * own.area + place;
                if (plane + i < last) y[index] = m.fixed && m.fixed[index] ? now : sum;
                before = now;
                now = after[i];
            }
        }
    });
}

template <bool Variable, bool Together>
INLINE void relax_phases(const Grid& m, const T* b, T* x, T* y, double omega, int32 depth, int32 kind, int64 first,
                         int64 last, uint32* arrived) {
    const Folded f(m, omega, Variable);
    for (int64 phase = first; phase < last; ++phase) {
        const int32 half = int32(phase % 2), turn = int32(phase % 4);
        if (kind == JACOBI && !Variable)
            jacobi_phase<Together>(m, f, b, half ? y : x, half ? x : y, depth);
        else if (kind == JACOBI)
            relax_phase<Variable, Together>(m, f, b, half ? y : x, half ? x : y, depth, 0, 1);
        else {
            const int32 colour = kind == SYMMETRIC ? turn == 1 || turn == 2 : half ^ int32(kind == BACKWARD);
            relax_phase<Variable, Together>(m, f, b, x, x, depth, colour, 2);
        }
        if (phase + 1 < last) grid_barrier(arrived, uint32(phase + 1 - first) * gridDim.x);
    }
}

// The phases [first, last) of a sequence of sweeps
KERNEL __launch_bounds__(256, RESIDENT)
    relax_stencil_kernel(int64 n0, int32 n1, int32 n2, const T* coefficient, const T* inverse,
                         const unsigned char* fixed, const T* b, T* x, T* y, const double* omega, int32 depth,
                         int32 kind, int64 first, int64 last, uint32* arrived) {
    const Grid m{n0, n1, n2, coefficient, inverse, fixed};
    if (inverse && arrived)
        relax_phases<true, true>(m, b, x, y, *omega, depth, kind, first, last, arrived);
    else if (inverse)
        relax_phases<true, false>(m, b, x, y, *omega, depth, kind, first, last, arrived);
    else if (arrived)
        relax_phases<false, true>(m, b, x, y, *omega, depth, kind, first, last, arrived);
    else
        relax_phases<false, false>(m, b, x, y, *omega, depth, kind, first, last, arrived);
}

// r = b - A x unless r is null, 0 where x is given; norms (items, warps per block): the sum of r^2 over each warp's
// share
KERNEL __launch_bounds__(256, RESIDENT)
    relax_stencil_residual_kernel(int64 n0, int32 n1, int32 n2, const T* coefficient, const T* inverse,
                                  const unsigned char* fixed, const T* b, const T* x, T* r, double* norms,
                                  int32 depth) {
    const Grid m{n0, n1, n2, coefficient, inverse, fixed};
    for_columns(m, depth, [&](int64 place, int64 first, int64 last, int64 item) {
        double norm = 0;
        if (place < m.area()) {
            const Column own(m, place);
            T before = first > 0 ? x[(first - 1) * own.area + place] : T(0), now = x[first * own.area + place];
            for (int64 plane = first; plane < last; ++plane) {
                const int64 index = plane * own.area + place;
                const T after = plane + 1 < n0 ? x[index + own.area] : T(0);
                const bool none = inverse ? inverse[index] == 0 : fixed && fixed[index];
                T sum = inverse ? sum_of<true, false>(m, own, x, b[index], before, after, index)
                                : sum_of<false, false>(m, own, x, b[index], before, after, index);
                sum = none ? T(0) : fma(-coefficient[inverse ? index : 0], now, sum);
                norm += double(sum) * double(sum);
                if (r) r[index] = sum;
                before = now;
                now = after;
            }
        }
        for (int mask = 16; mask > 0; mask /= 2) norm += from_lane_xor(norm, mask);
        if (threadIdx.x % 32 == 0) norms[item * (blockDim.x / 32) + threadIdx.x / 32] = norm;
    });
}
