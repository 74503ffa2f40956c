// Norms of residuals, and the verdict on each row.
#include "fixedpoint/cpu/sums.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

constexpr double kInfinity = __builtin_inf();
constexpr int kParts = 4; // for r, then f: the sum of squares; or the largest element and minus the smallest

// Loads as many numbers as a vector has doubles; lanes past the end repeat the first number of the row.
using halves __attribute__((vector_size(kVectorBytes / 2), aligned(4))) = float;
FASTITER_INLINE vec<double> as_double(const double* p) { return load(p); }
FASTITER_INLINE vec<double> as_double(const float* p) {
    return __builtin_convertvector(*reinterpret_cast<const halves*>(p), vec<double>);
}
template <class T> FASTITER_INLINE vec<double> as_double(const T* p, int64_t at, int64_t n) {
    if (n - at >= lanes<double>) return as_double(p + at);
    vec<double> v = broadcast(double(p[0]));
    for (int64_t i = at; i < n; ++i) v[i - at] = double(p[i]);
    return v;
}

// The larger of each pair of lanes; NaN if either is
FASTITER_INLINE vec<double> larger(vec<double> top, vec<double> x) {
    return select<double>((x > top) | (x != x), x, top);
}
FASTITER_INLINE double largest_of(vec<double> v) {
    double top = v[0];
    for (int i = 1; i < lanes<double>; ++i) top = v[i] > top || v[i] != v[i] ? v[i] : top;
    return top;
}

template <class T>
FASTITER_INLINE void squares(const T* x, const T* f, int64_t n, double r_unit, double f_unit, double* out) {
    constexpr int W = lanes<double>;
    vec<double> of_r{}, of_f{};
    const int64_t whole = n / W * W;
    for (int64_t j = 0; j < whole; j += W) {
        const vec<double> value = as_double(f + j), r = (value - as_double(x + j)) * r_unit, v = value * f_unit;
        of_r = fma(r, r, of_r);
        of_f = fma(v, v, of_f);
    }
    out[0] = sum_of<double>(of_r);
    out[2] = sum_of<double>(of_f);
    for (int64_t j = whole; j < n; ++j) {
        const double value = double(f[j]), r = (value - double(x[j])) * r_unit, v = value * f_unit;
        out[0] += r * r;
        out[2] += v * v;
    }
}

template <class T, bool Span> FASTITER_INLINE void extremes(const T* x, const T* f, int64_t n, double* out) {
    const vec<double> none = broadcast(-kInfinity);
    vec<double> r_high = none, r_low = none, f_high = none, f_low = none;
    for (int64_t j = 0; j < n; j += lanes<double>) {
        const vec<double> value = as_double(f, j, n), r = value - as_double(x, j, n);
        r_high = larger(r_high, Span ? r : magnitude<double>(r));
        f_high = larger(f_high, Span ? value : magnitude<double>(value));
        if constexpr (Span) {
            r_low = larger(r_low, -r);
            f_low = larger(f_low, -value);
        }
    }
    out[0] = largest_of(r_high);
    out[1] = largest_of(r_low);
    out[2] = largest_of(f_high);
    out[3] = largest_of(f_low);
}

template <class T> void parts_of(const Measure<T>& p, int64_t row, int64_t chunk, int64_t first, int64_t count) {
    double* out = p.workspace + (row * chunks_of(p.n) + chunk) * kParts;
    const T *x = p.x + row * p.n + first, *f = p.f + row * p.n + first;
    if (p.norm == Norm::inf)
        extremes<T, false>(x, f, count, out);
    else if (p.norm == Norm::span)
        extremes<T, true>(x, f, count, out);
    else
        squares(x, f, count, 1, 1, out);
}

// Whether squares in double neither overflow nor lose digits
FASTITER_INLINE bool is_safe(double squares) {
    return (squares < 0x1p1000 && squares > 0x1p-900) || squares != squares;
}

// The roots of a row's sums of squares, for r and f; if a sum over- or underflows, it is recomputed in units of the
// largest element.
template <class T> void roots_of(const Measure<T>& p, int64_t row, double* total) {
    const T *x = p.x + row * p.n, *f = p.f + row * p.n;
    if (!is_safe(total[0]) || !is_safe(total[2])) {
        double top[kParts];
        extremes<T, false>(x, f, p.n, top);
        const double r_scale = top[0] > 0 ? top[0] : 1, f_scale = top[2] > 0 ? top[2] : 1;
        if (r_scale == kInfinity || f_scale == kInfinity || r_scale != r_scale || f_scale != f_scale) {
            total[0] = top[0];
            total[2] = top[2];
            return;
        }
        double r = 0, v = 0;
        for (int64_t j = 0; j < p.n; ++j) {
            const double value = double(f[j]), a = (value - double(x[j])) / r_scale, b = value / f_scale;
            r += a * a;
            v += b * b;
        }
        total[0] = r_scale * __builtin_sqrt(r);
        total[2] = f_scale * __builtin_sqrt(v);
        return;
    }
    total[0] = __builtin_sqrt(total[0]);
    total[2] = __builtin_sqrt(total[2]);
}

template <class T> void norms_of(const Measure<T>& p, int64_t row) {
    const int64_t chunks = chunks_of(p.n), slot = p.judge.slot[row];
    double* total = p.workspace + row * chunks * kParts;
    const bool adds = p.norm == Norm::l2 || p.norm == Norm::rms;
    for (int64_t c = 1; c < chunks; ++c)
        for (int k = 0; k < kParts; ++k) {
            const double part = total[c * kParts + k];
            total[k] = adds ? total[k] + part : part > total[k] || part != part ? part : total[k];
        }
    if (p.n == 0) {
        total[0] = total[1] = total[2] = total[3] = 0;
    } else if (p.norm == Norm::span) {
        total[0] += total[1];
        total[2] += total[3];
    } else if (adds) {
        roots_of(p, row, total);
        if (p.norm == Norm::rms) {
            total[0] /= __builtin_sqrt(double(p.n));
            total[2] /= __builtin_sqrt(double(p.n));
        }
    }
    p.judge.residual[slot] = total[0];
    p.judge.scale[slot] = total[2];
}

template <class T> FASTITER_INLINE void keep_best(const Measure<T>& p, int64_t row, int64_t first, int64_t count) {
    if (!p.judge.is_best[row]) return;
    const T* x = p.x + row * p.n + first;
    T* best = p.best_x + p.judge.slot[row] * p.n + first;
    for (int64_t j = 0; j < count; j += lanes<T>) store_up_to(best + j, load_up_to(x + j, count - j), count - j);
}

template <class T> Judge alone(const Measure<T>& p, int64_t row) {
    Judge one = p.judge;
    one.rows = 1;
    one.slot += row;
    one.verdict += row;
    one.is_best += row;
    return one;
}

template <class T> void measure(const Measure<T>& p, Team team) {
    if (chunks_of(p.n) == 1) {
        each_chunk(p.judge.rows, p.n, team, [&](int64_t row, int64_t chunk, int64_t first, int64_t count) {
            if (p.n) parts_of(p, row, chunk, first, count);
            norms_of(p, row);
            judge_rows(alone(p, row));
            keep_best(p, row, first, count);
        });
        return;
    }
    each_chunk(p.judge.rows, p.n, team, [&](int64_t row, int64_t chunk, int64_t first, int64_t count) {
        parts_of(p, row, chunk, first, count);
    });
    wait(team.barriers[0], team.size);
    for (int64_t row = team.id; row < p.judge.rows; row += team.size) {
        norms_of(p, row);
        judge_rows(alone(p, row));
    }
    wait(team.barriers[0], team.size);
    each_chunk(p.judge.rows, p.n, team,
               [&](int64_t row, int64_t, int64_t first, int64_t count) { keep_best(p, row, first, count); });
}

} // namespace

extern const Measures measures{{measure<float>}, {measure<double>}};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
