// Matrix-free relaxation of 5-point and 7-point stencils on grids.
#include "relax/cpu/complex.hpp"

namespace fastiter::relax::FASTITER_LEVEL {
namespace {

// keep x + scale b + sum of factor_q x_q: a sweep with constant coefficients, in the fewest operations
template <class T> struct Folded {
    real_of<T> keep;
    T scale, factor[7];
    Folded(const RelaxStencil<T>& m, double omega) {
        keep = real_of<T>(1 - omega);
        scale = real_of<T>(omega) * m.constant_inverse;
        for (int q = 0; q < 7; ++q) factor[q] = m.is_constant ? -scale * m.coefficient[q][0] : T{};
    }
};

// One line of the grid with its neighbours; neighbours outside the grid are a line of zeros.
template <class T, bool Constant, int Sides> struct Line {
    const T *x, *b, *side[Sides], *coefficient[7], *inverse;
    T constant_inverse;
    int64_t n;

    FASTITER_INLINE Line(const RelaxStencil<T>& m, const T* all_x, const T* all_b, int64_t plane, int64_t line) {
        n = m.n2;
        const int64_t at = (plane * m.n1 + line) * n, area = m.n1 * n;
        x = all_x + at;
        b = all_b + at;
        side[0] = plane > 0 ? x - area : m.zeros;
        side[1] = plane + 1 < m.n0 ? x + area : m.zeros;
        if constexpr (Sides == 4) {
            side[2] = line > 0 ? x - n : m.zeros;
            side[3] = line + 1 < m.n1 ? x + n : m.zeros;
        }
        for (int q = 0; q < 7; ++q) coefficient[q] = m.coefficient[q] + (Constant ? 0 : at);
        inverse = m.inverse ? m.inverse + at : nullptr;
        constant_inverse = m.constant_inverse;
    }

    FASTITER_INLINE T factor(int q, int64_t i) const { return coefficient[q][Constant ? 0 : i]; }
    FASTITER_INLINE vec<T> factors(int q, int64_t i) const {
        return Constant ? broadcast(coefficient[q][0]) : load(coefficient[q] + i);
    }
    FASTITER_INLINE T inverse_at(int64_t i) const { return inverse ? inverse[i] : constant_inverse; }
    FASTITER_INLINE vec<T> inverses(int64_t i) const {
        return inverse ? load(inverse + i) : broadcast(constant_inverse);
    }

    // b - the terms of the neighbours
    FASTITER_INLINE T sum(int64_t i) const {
        T s = b[i];
        for (int q = 0; q < Sides; ++q) s = s - factor(1 + q, i) * side[q][i];
        if (i > 0) s = s - factor(5, i) * x[i - 1];
        if (i + 1 < n) s = s - factor(6, i) * x[i + 1];
        return s;
    }
    // New x of one point, and of a vector of points with neighbours on both sides
    FASTITER_INLINE T relaxed(const Folded<T>& f, real_of<T> omega, int64_t i) const {
        if constexpr (!Constant) {
            const T z = inverse_at(i) * sum(i);
            return f.keep != 0 ? f.keep * x[i] + omega * z : z;
        }
        T s = f.scale * b[i];
        for (int q = 0; q < Sides; ++q) s = fma_one(f.factor[1 + q], side[q][i], s);
        if (i > 0) s = fma_one(f.factor[5], x[i - 1], s);
        if (i + 1 < n) s = fma_one(f.factor[6], x[i + 1], s);
        return f.keep != 0 ? fma_one(f.keep, x[i], s) : s;
    }
    FASTITER_INLINE vec<T> relaxed(const Folded<T>& f, real_of<T> omega, int64_t i, vec<T> now, vec<T> before,
                                   vec<T> after) const {
        if constexpr (!Constant) {
            const vec<T> z = inverses(i) * sums(i, before, after);
            return f.keep != 0 ? f.keep * now + omega * z : z;
        }
        vec<T> s = f.scale * load(b + i);
        for (int q = 0; q < Sides; ++q) s = fma(load(side[q] + i), f.factor[1 + q], s);
        s = fma(before, f.factor[5], s);
        s = fma(after, f.factor[6], s);
        return f.keep != 0 ? fma(now, f.keep, s) : s;
    }

    // The same as sum() for a vector of points with neighbours on both sides, whose x are passed
    FASTITER_INLINE vec<T> sums(int64_t i, vec<T> before, vec<T> after) const {
        vec<T> s = load(b + i);
        for (int q = 0; q < Sides; ++q) s = s - factors(1 + q, i) * load(side[q] + i);
        s = s - factors(5, i) * before;
        return s - factors(6, i) * after;
    }
};

// Calls f(i, x, x one before, x one after) for whole vectors of columns in [first, last), starting where x is
// vector-aligned in memory, and point(i) for the others. Every x is loaded once, and before any store nearby: a load
// that overlaps a recent vector store would stall on store forwarding.
template <class T, class F, class P>
FASTITER_INLINE void along_line(const T* x, int64_t n, int64_t first, int64_t last, F f, P point) {
    constexpr int64_t L = lanes<T>;
    constexpr int R = reals_of<T>;
    constexpr auto all = all_reals<T>;
    const int64_t ahead =
        (kVectorBytes - int64_t(reinterpret_cast<uintptr_t>(x + first) % kVectorBytes)) / int64_t(sizeof(T));
    int64_t i = first;
    const int64_t begin = min_of(last, max_of(first + ahead % L, 1)), inside = min_of(last, n - 1);
    for (; i < begin; ++i) point(i);
    if (i + L <= inside) {
        vec<T> before = broadcast(x[i - 1]), now = load(x + i);
        for (; i + L <= inside; i += L) {
            const vec<T> after = i + 2 * L <= n ? load(x + i + L) : broadcast(x[i + L]);
            f(i, now, one_before<R>(before, now, all), one_after<R>(now, after, all));
            before = now;
            now = after;
        }
    }
    for (; i < last; ++i) point(i);
}

// The points of one colour in a range of columns of a plane: those with plane + line + i + colour even
template <class T, bool Constant, int Sides>
void half_plane(const RelaxStencil<T>& m, const RelaxStep<T>& s, int64_t plane, int64_t colour, int64_t first,
                int64_t last) {
    const real_of<T> omega = real_of<T>(s.omega);
    const Folded<T> folded(m, s.omega);
    const bool is_masked = m.inverse != nullptr;
    for (int64_t line = 0; line < m.n1; ++line) {
        const Line<T, Constant, Sides> l(m, s.x, s.b, plane, line);
        T* y = s.y + (plane * m.n1 + line) * m.n2;
        const int64_t shift = (plane + line + colour) & 1;
        auto point = [&](int64_t i) __attribute__((always_inline)) {
            if (((i + shift) & 1) == 0 && !is_zero(l.inverse_at(i))) y[i] = l.relaxed(folded, omega, i);
        };
        const mask<real_of<T>> even = alternate<T>(all_reals<T>), odd = ~even;
        along_line(
            l.x, l.n, first, last,
            [&](int64_t i, vec<T> x, vec<T> before, vec<T> after) __attribute__((always_inline)) {
                mask<real_of<T>> active = (i + shift) & 1 ? odd : even;
                if (is_masked) active &= nonzero(l.inverses(i));
                store(y + i, pick(active, l.relaxed(folded, omega, i, x, before, after), x));
            },
            point);
    }
}

// All points of a plane from the previous x: Jacobi and Chebyshev
template <class T, bool Constant, int Sides>
void whole_plane(const RelaxStencil<T>& m, const RelaxStep<T>& s, int64_t plane) {
    const real_of<T> omega = real_of<T>(s.omega), momentum = real_of<T>(s.momentum);
    const Folded<T> folded(m, s.omega);
    for (int64_t line = 0; line < m.n1; ++line) {
        const Line<T, Constant, Sides> l(m, s.x, s.b, plane, line);
        const int64_t at = (plane * m.n1 + line) * m.n2;
        T *y = s.y + at, *d = s.d ? s.d + at : nullptr;
        auto point = [&](int64_t i) __attribute__((always_inline)) {
            const T inverse = l.inverse_at(i);
            if (is_zero(inverse))
                y[i] = l.x[i];
            else if (d) {
                d[i] = momentum * d[i] + omega * (inverse * l.sum(i) - l.x[i]);
                y[i] = l.x[i] + d[i];
            } else
                y[i] = l.relaxed(folded, omega, i);
        };
        along_line(
            l.x, l.n, 0, l.n,
            [&](int64_t i, vec<T> x, vec<T> before, vec<T> after) __attribute__((always_inline)) {
                const vec<T> inverse = l.inverses(i);
                vec<T> now;
                if (d) {
                    const vec<T> z = inverse * l.sums(i, before, after);
                    const vec<T> next = momentum * load(d + i) + omega * (z - x);
                    store(d + i, pick(nonzero(inverse), next, load(d + i)));
                    now = x + next;
                } else
                    now = l.relaxed(folded, omega, i, x, before, after);
                store(y + i, pick(nonzero(inverse), now, x));
            },
            point);
    }
}

// Points in natural order
template <class T, bool Constant, int Sides>
void natural_plane(const RelaxStencil<T>& m, const RelaxStep<T>& s, int64_t plane) {
    const real_of<T> omega = real_of<T>(s.omega);
    const Folded<T> folded(m, s.omega);
    for (int64_t t = 0; t < m.n1; ++t) {
        const int64_t line = s.backward ? m.n1 - 1 - t : t;
        const Line<T, Constant, Sides> l(m, s.x, s.b, plane, line);
        T* y = s.y + (plane * m.n1 + line) * m.n2;
        for (int64_t u = 0; u < m.n2; ++u) {
            const int64_t i = s.backward ? m.n2 - 1 - u : u;
            if (!is_zero(l.inverse_at(i))) y[i] = l.relaxed(folded, omega, i);
        }
    }
}

// Points in the order of a list
template <class T, bool Constant, int Sides>
void listed_points(const RelaxStencil<T>& m, const RelaxStep<T>& s, const int32_t* order, int64_t first, int64_t last) {
    const real_of<T> omega = real_of<T>(s.omega);
    const Folded<T> folded(m, s.omega);
    for (int64_t t = first; t < last; ++t) {
        const int64_t point = order[s.backward ? last - 1 - (t - first) : t], line = point / m.n2, i = point % m.n2;
        const Line<T, Constant, Sides> l(m, s.x, s.b, line / m.n1, line % m.n1);
        if (!is_zero(l.inverse_at(i))) s.y[point] = l.relaxed(folded, omega, i);
    }
}

// Kaczmarz: projections onto the equations, point by point. Only x that are not fixed are updated, and count in
// |a_i|^2.
template <class T, bool Constant, int Sides>
void project_points(const RelaxStencil<T>& m, const RelaxStep<T>& s, const int32_t* order) {
    const int64_t area = m.n1 * m.n2, points = m.n0 * area;
    for (int64_t t = 0; t < points; ++t) {
        const int64_t turn = s.backward ? points - 1 - t : t, point = order ? order[turn] : turn;
        const int64_t plane = point / area, line = point / m.n2 % m.n1, i = point % m.n2;
        const Line<T, Constant, Sides> l(m, s.x, s.b, plane, line);
        if (is_zero(l.inverse_at(i))) continue;
        const int64_t step[7] = {0, -area, area, -m.n2, m.n2, -1, 1};
        const bool inside[7] = {true, plane > 0, plane + 1 < m.n0, line > 0, line + 1 < m.n1, i > 0, i + 1 < m.n2};
        bool moves[7];
        double norm = 0;
        for (int q = 0; q < 7; ++q) {
            moves[q] = inside[q] && !(m.inverse && is_zero(m.inverse[point + step[q]]));
            if (moves[q]) norm += square(l.factor(q, i));
        }
        if (norm == 0) continue;
        const T scaled = real_of<T>(s.omega / norm) * (l.sum(i) - l.factor(0, i) * l.x[i]);
        for (int q = 0; q < 7; ++q)
            if (moves[q]) {
                T& to = s.y[point + step[q]];
                to = to + T(conjugate(l.factor(q, i))) * scaled;
            }
    }
}

template <class T, bool Constant, int Sides>
void residual_plane(const RelaxStencil<T>& m, const RelaxResidual<T>& s, int64_t plane) {
    constexpr int kSums = 16; // one sum for every 16th column, on every instruction set
    double norms[kSums] = {};
    for (int64_t line = 0; line < m.n1; ++line) {
        const Line<T, Constant, Sides> l(m, s.x, s.b, plane, line);
        T* r = s.r ? s.r + (plane * m.n1 + line) * m.n2 : nullptr;
        auto put = [&](int64_t i, T value) __attribute__((always_inline)) {
            norms[i % kSums] += square(value);
            if (r) r[i] = value;
        };
        along_line(
            l.x, l.n, 0, l.n,
            [&](int64_t i, vec<T> x, vec<T> before, vec<T> after) __attribute__((always_inline)) {
                const vec<T> value = l.sums(i, before, after) - l.factors(0, i) * x;
                const vec<T> nonzero_values = pick(nonzero(l.inverses(i)), value, vec<T>{});
                for (int o = 0; o < lanes<T>; ++o) put(i + o, number(nonzero_values, o));
            },
            [&](int64_t i) __attribute__((always_inline)) {
                put(i, is_zero(l.inverse_at(i)) ? T{} : l.sum(i) - l.factor(0, i) * l.x[i]);
            });
    }
    double norm = 0;
    for (double part : norms) norm += part;
    s.norms[plane] = norm;
}

// Calls f<Constant, Sides>().
template <class T, class F> FASTITER_INLINE void with_form(const RelaxStencil<T>& m, F f) {
    if (m.is_constant)
        m.n1 > 1 ? f.template operator()<true, 4>() : f.template operator()<true, 2>();
    else
        m.n1 > 1 ? f.template operator()<false, 4>() : f.template operator()<false, 2>();
}

template <class T>
void stencil_half(const RelaxStencil<T>& m, const RelaxStep<T>& s, int64_t plane, int64_t colour, int64_t first,
                  int64_t last) {
    with_form(m, [&]<bool C, int S>() { half_plane<T, C, S>(m, s, plane, colour, first, last); });
}
template <class T> void stencil_whole(const RelaxStencil<T>& m, const RelaxStep<T>& s, int64_t first, int64_t last) {
    with_form(m, [&]<bool C, int S>() {
        for (int64_t plane = first; plane < last; ++plane) whole_plane<T, C, S>(m, s, plane);
    });
}
template <class T> void stencil_natural(const RelaxStencil<T>& m, const RelaxStep<T>& s) {
    with_form(m, [&]<bool C, int S>() {
        for (int64_t t = 0; t < m.n0; ++t) natural_plane<T, C, S>(m, s, s.backward ? m.n0 - 1 - t : t);
    });
}
template <class T>
void stencil_listed(const RelaxStencil<T>& m, const RelaxStep<T>& s, const int32_t* order, int64_t first,
                    int64_t last) {
    with_form(m, [&]<bool C, int S>() { listed_points<T, C, S>(m, s, order, first, last); });
}
template <class T> void stencil_projections(const RelaxStencil<T>& m, const RelaxStep<T>& s, const int32_t* order) {
    with_form(m, [&]<bool C, int S>() { project_points<T, C, S>(m, s, order); });
}
template <class T>
void stencil_residual(const RelaxStencil<T>& m, const RelaxResidual<T>& s, int64_t first, int64_t last) {
    with_form(m, [&]<bool C, int S>() {
        for (int64_t plane = first; plane < last; ++plane) residual_plane<T, C, S>(m, s, plane);
    });
}

template <class T>
constexpr StencilKernelsOf<T> kernels_for = {stencil_half<T>,   stencil_whole<T>,       stencil_natural<T>,
                                             stencil_listed<T>, stencil_projections<T>, stencil_residual<T>};

} // namespace

const StencilKernels stencil_kernels = {kernels_for<float>, kernels_for<double>, kernels_for<Complex>};

} // namespace fastiter::relax::FASTITER_LEVEL
