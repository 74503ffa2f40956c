// The Sinkhorn iteration: one row at a time for f, a few vectors of columns at a time for g.
#include "fixedpoint/cpu/sinkhorn.hpp"
#include "core/cpu/vmath.hpp"
#include "fixedpoint/cpu/sums.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

// log x of positive normal numbers to 2 ulp: 2 atanh((m - 1) / (m + 1)) of the mantissa m in [1/sqrt 2, sqrt 2)
template <class T> FASTITER_INLINE vec<T> log_of(vec<T> x) {
    constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52, kTerms = sizeof(T) == 4 ? 5 : 11;
    constexpr T kBias = sizeof(T) == 4 ? T(127) : T(1023), kRoot = T(1.41421356237309504880);
    // ln 2 in two parts; the product of the first with an exponent is exact.
    constexpr T kLn2High = sizeof(T) == 4 ? T(0.693359375) : T(0.693147180369123816490);
    constexpr T kLn2Low = sizeof(T) == 4 ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
    const mask<T> bits = (mask<T>)x, one = (mask<T>)broadcast(T(1));
    vec<T> exponent = __builtin_convertvector(bits >> kMantissa, vec<T>) - kBias;
    vec<T> mantissa = (vec<T>)((bits & ((one ^ one) + ((decltype(bits[0] + 0))(1) << kMantissa) - 1)) | one);
    const mask<T> is_large = mantissa > broadcast(kRoot);
    mantissa = select<T>(is_large, mantissa * T(0.5), mantissa);
    exponent = select<T>(is_large, exponent + T(1), exponent);
    const vec<T> s = (mantissa - T(1)) / (mantissa + T(1)), s2 = s * s;
    vec<T> p = broadcast(T(1) / (2 * kTerms + 1));
#pragma GCC unroll 16
    for (int k = kTerms - 1; k > 0; --k) p = fma(p, s2, broadcast(T(1) / (2 * k + 1)));
    const vec<T> small = fma(exponent, broadcast(kLn2Low), T(2) * fma(s * s2, p, s));
    return fma(exponent, broadcast(kLn2High), small);
}

template <class T> FASTITER_INLINE vec<T> minus_infinity() { return broadcast(T(-__builtin_inf())); }

template <class T> FASTITER_INLINE vec<T> load_or_minus_infinity(const T* p, int64_t n) {
    if (n >= lanes<T>) return load(p);
    vec<T> v = minus_infinity<T>();
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
}

// The logarithm of the sum of exp((g - cost) / epsilon) over a row
template <class T> FASTITER_INLINE T log_sum(const T* g, const T* cost, int64_t m, T inverse) {
    constexpr int W = lanes<T>;
    vec<T> high = minus_infinity<T>();
    for (int64_t j = 0; j < m; j += W) {
        const vec<T> t = (load_or_minus_infinity(g + j, m - j) - load_up_to(cost + j, m - j)) * inverse;
        high = select<T>(t > high, t, high);
    }
    T largest = high[0];
    for (int i = 1; i < W; ++i) largest = high[i] > largest ? high[i] : largest;
    double total = 0;
    for (int64_t from = 0; from < m; from += kSummed) {
        vec<T> sum{};
        for (int64_t j = from; j < min_of(m, from + kSummed); j += W) {
            const vec<T> t = (load_or_minus_infinity(g + j, m - j) - load_up_to(cost + j, m - j)) * inverse - largest;
            const vec<T> e = exp_of_nonpositive<T>(t);
            sum += m - j >= W ? e : select<T>(t > minus_infinity<T>(), e, vec<T>{});
        }
        total += double(sum_of<T>(sum));
    }
    return largest + log_of<T>(broadcast(T(total)))[0];
}

// Rows [first, last): the next f, and how far each row sum of the plan of f and g is from its target
template <class T> void rows_of(const Sinkhorn<T>& p, int64_t item, int64_t first, int64_t last, T* next) {
    const T *g = p.g + item * p.m, *f = p.f + item * p.n, *log_a = p.log_a + item * p.n;
    const T inverse = T(1 / p.epsilon), epsilon = T(p.epsilon);
    for (int64_t i = first; i < last; ++i) {
        const T sum = log_sum(g, p.cost + (item * p.n + i) * p.m, p.m, inverse);
        next[i] = epsilon * (log_a[i] - sum);
        const vec<T> masses = exp<T>(vec<T>{log_a[i], f[i] * inverse + sum});
        const double lacks = double(masses[1]) - double(masses[0]);
        p.workspace[item * p.n + i] = lacks < 0 ? -lacks : lacks;
    }
}

constexpr int kPanel = 4; // vectors of columns

// Computes g for columns [first, last).
template <class T> void columns_of(const Sinkhorn<T>& p, int64_t item, int64_t first, int64_t last) {
    constexpr int W = lanes<T>;
    const T *f = p.f + item * p.n, *cost = p.cost + item * p.n * p.m, *log_b = p.log_b + item * p.m;
    const T inverse = T(1 / p.epsilon), epsilon = T(p.epsilon);
    for (int64_t j = first; j < last; j += kPanel * W) {
        const int count = int(min_of(kPanel, ceil_div(last - j, W)));
        vec<T> high[kPanel], sum[kPanel] = {};
        for (int k = 0; k < kPanel; ++k) high[k] = minus_infinity<T>();
        for (int64_t i = 0; i < p.n; ++i)
            for (int k = 0; k < count; ++k) {
                const vec<T> c = load_up_to(cost + i * p.m + j + k * W, last - j - k * W);
                const vec<T> t = (broadcast(f[i]) - c) * inverse;
                high[k] = select<T>(t > high[k], t, high[k]);
            }
        for (int64_t i = 0; i < p.n; ++i)
            for (int k = 0; k < count; ++k) {
                const vec<T> c = load_up_to(cost + i * p.m + j + k * W, last - j - k * W);
                sum[k] += exp_of_nonpositive<T>((broadcast(f[i]) - c) * inverse - high[k]);
            }
        for (int k = 0; k < count; ++k) {
            const int64_t left = last - j - k * W;
            const vec<T> value = load_up_to(log_b + j + k * W, left) - (high[k] + log_of<T>(sum[k]));
            store_up_to(p.g + item * p.m + j + k * W, value * epsilon, left);
        }
    }
}

// Solves one problem with `size` threads, of which this is number `id`; meet() is their barrier.
template <class T, class Meet>
void solve_item(const Sinkhorn<T>& p, int64_t item, int id, int size, const Team& team, Meet meet) {
    constexpr int64_t kUnit = lanes<T> * kPanel;
    const int64_t panels = ceil_div(p.m, kUnit), n = p.n;
    const int64_t row = n * id / size, last_row = n * (id + 1) / size;
    const int64_t column = min_of(p.m, panels * id / size * kUnit);
    const int64_t last_column = min_of(p.m, panels * (id + 1) / size * kUnit);
    T* next = reinterpret_cast<T*>(p.workspace + p.batch * n) + item * n;
    for (int64_t step = 0;; ++step) {
        columns_of(p, item, column, last_column);
        meet();
        rows_of(p, item, row, last_row, next);
        meet();
        double residual = 0;
        for (int64_t i = 0; i < n; ++i) residual += p.workspace[item * n + i];
        const bool has_ended = residual <= p.tolerance[item];
        if (has_ended || step >= p.max_steps || residual != residual) {
            if (id == 0) {
                p.residual[item] = residual;
                p.steps[item] = step;
                p.ended[item] = has_ended;
            }
            return;
        }
        if (has_to_stop(team, 16 * n * p.m)) return;
        for (int64_t i = row; i < last_row; ++i) p.f[item * n + i] = next[i];
        meet();
    }
}

template <class T> void solve(const Sinkhorn<T>& p, Team team) {
    if (p.batch >= team.size) {
        const int64_t begin = p.batch * team.id / team.size, end = p.batch * (team.id + 1) / team.size;
        for (int64_t item = begin; item < end; ++item) solve_item(p, item, 0, 1, team, [] {});
        return;
    }
    for (int64_t item = 0; item < p.batch; ++item)
        solve_item(p, item, team.id, team.size, team, [&] { wait(team.barriers[0], team.size); });
}

} // namespace

extern const Sinkhorns sinkhorns{{solve<float>}, {solve<double>}};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
