#include "core/cpu/vmath.hpp"
#include "fixedpoint/cpu/prox_tile.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

template <class T> constexpr T kLargest = sizeof(T) == 4 ? T(3.40282346638528859812e38) : T(1.79769313486231570815e308);
template <class T> constexpr T kRounding = sizeof(T) == 4 ? T(1.1920928955078125e-7) : T(2.220446049250313081e-16);
template <class T> constexpr T kNaN = T(__builtin_nan(""));
constexpr int kMaxSteps = 200; // limit of Newton's method; tests need at most 30 steps

template <class T> FASTITER_INLINE vec<T> larger(vec<T> x, vec<T> y) { return select<T>(x > y, x, y); }
template <class T> FASTITER_INLINE vec<T> smaller(vec<T> x, vec<T> y) { return select<T>(x < y, x, y); }

// The threshold tau for the numbers z <= 0 of a tile, the largest of which is 0: sum max(z - tau, 0) = r. The sum is
// convex and decreasing in tau, so that Newton's steps from a tau below the root increase monotonically, and it is
// piecewise linear, so that they end. They stop when rounding prevents any increase. active: groups that need a
// threshold; at: starting point.
template <class T, class Tile> FASTITER_INLINE vec<T> threshold(const Tile& t, vec<T> r, vec<T> at, mask<T> active) {
    while (any<T>(active)) {
        vec<T> sum{}, count{};
        for (int64_t k = 0; k < t.steps; ++k) {
            const vec<T> above = t.tile[k] - at;
            const mask<T> is_above = above > T(0);
            sum += select<T>(is_above, above, vec<T>{});
            count += select<T>(is_above, broadcast(T(1)), vec<T>{});
        }
        sum = t.sum(sum);
        count = t.sum(count);
        const vec<T> next = at + (sum - r) / count;
        active &= (next > at);
        at = select<T>(active, next, at);
    }
    return at;
}

// Subtracts the largest number of a tile from all its numbers; returns the groups that contain NaN or infinity.
template <class T, class Tile> FASTITER_INLINE mask<T> subtract_largest(const Tile& t) {
    vec<T> top = broadcast(-T(__builtin_inf()));
    mask<T> wrong{};
    for (int64_t k = 0; k < t.steps; ++k) {
        wrong |= (t.tile[k] != t.tile[k]);
        top = larger<T>(t.tile[k], top);
    }
    top = t.largest(top);
    wrong = t.any_of(wrong | (magnitude<T>(top) > kLargest<T>));
    for (int64_t k = 0; k < t.steps; ++k) t.tile[k] = select<T>(wrong, vec<T>{}, t.tile[k] - top);
    return wrong;
}

template <class T, class Tile> FASTITER_INLINE void simplex(const Tile& t, vec<T> r) {
    const mask<T> wrong = subtract_largest<T>(t);
    // Two lower bounds of the root: -r, as the largest number alone then gives r, and the tau that gives r if all
    // numbers are above it.
    vec<T> sum{}, count{};
    for (int64_t k = 0; k < t.steps; ++k) {
        const mask<T> is_finite = t.tile[k] >= -kLargest<T>;
        sum += select<T>(is_finite, t.tile[k], vec<T>{});
        count += select<T>(is_finite, broadcast(T(1)), vec<T>{});
    }
    const vec<T> tau = threshold<T>(t, r, larger<T>(-r, (t.sum(sum) - r) / t.sum(count)), ~wrong);
    const vec<T> shift = select<T>(wrong | (tau > T(0)), broadcast(kNaN<T>), tau);
    for (int64_t k = 0; k < t.steps; ++k) t.tile[k] = at_least<T>(t.tile[k] - shift, T(0));
}

template <class T, class Tile> FASTITER_INLINE void l1_ball(const Tile& t, vec<T> r) {
    vec<T>* y = t.tile + t.steps;
    vec<T> top{}, sum{};
    for (int64_t k = 0; k < t.steps; ++k) {
        const vec<T> a = magnitude<T>(t.tile[k]);
        top = larger<T>(a, top);
        sum += a;
        y[k] = t.tile[k];
    }
    top = t.largest(top);
    sum = t.sum(sum);
    const mask<T> wrong = ~(sum <= kLargest<T>), inside = sum <= r;
    for (int64_t k = 0; k < t.steps; ++k) t.tile[k] = magnitude<T>(t.tile[k]) - top;
    const vec<T> tau = threshold<T>(t, r, larger<T>(-r, -top), ~(inside | wrong));
    const vec<T> shift = select<T>(wrong, broadcast(kNaN<T>), tau);
    for (int64_t k = 0; k < t.steps; ++k) {
        const vec<T> x = copy_sign<T>(at_least<T>(t.tile[k] - shift, T(0)), y[k]);
        t.tile[k] = select<T>(inside, y[k], x);
    }
}

// Scalar logarithm and exponential of the parameters
double exponential(double x) { return double(exp<double>(broadcast(x))[0]); }
double logarithm(double x) {
    int exponent = 0;
    for (; x > 1.5; ++exponent) x *= 0.5;
    for (; x < 0.75; --exponent) x *= 2;
    double w = x - 1; // Newton's method for e^w = x
    for (int i = 0; i < 6; ++i) w += x / exponential(w) - 1;
    return w + exponent * 0.69314718055994530942;
}

// Tangents of h(w) = a w + b e^w give bounds of its inverse, w(s) = slope s + offset: upper bounds where h is convex.
constexpr int kLines = 4;
template <class T> struct Inverse {
    T slope[kLines], offset[kLines];

    Inverse(double a, double b) {
        const double last = a < 0.36 ? logarithm(a) - 1 : -2;
        for (int j = 0; j < kLines; ++j) {
            const double at = last * j / (kLines - 1), e = exponential(at), d = a + b * e;
            slope[j] = T(1 / d);
            offset[j] = T(at - (a * at + b * e) / d);
        }
    }
};

// With w = log x, z = y - max y and nu relative to max y, w solves a w + b e^w = z + nu - a, where a = parameter and
// b = 1 - a, and sum e^w = 1. A Newton step in all w and nu together costs one exponential per number. nu is kept
// within the bounds that follow from a largest x between 1 / size and 1. An x below the smallest representable number
// is 0.
template <class T> struct SoftmaxEntropy {
    T a, b, low, high = 1;
    Inverse<T> inverse;

    explicit SoftmaxEntropy(const Groups<T>& g)
        : a(T(g.parameter)), b(T(1 - g.parameter)), inverse(g.parameter, 1 - g.parameter) {
        const double size = double(g.size);
        low = T(g.parameter * (1 - logarithm(size)) + (1 - g.parameter) / size);
    }

    // Clamps the numbers z of a tile from below, where they no longer matter, and sets w near the root for this nu.
    template <class Tile> FASTITER_INLINE void begin(const Tile& t, vec<T>* w, T nu) const {
        const T smallest = a * ExpConstants<T>::lowest - T(2);
        for (int64_t k = 0; k < t.steps; ++k) {
            t.tile[k] = at_least<T>(t.tile[k], smallest);
            const vec<T> s = t.tile[k] + (nu - a);
            vec<T> start = s / a;
            for (int j = 0; j < kLines; ++j) {
                const vec<T> bound = fma(s, inverse.slope[j], broadcast(inverse.offset[j]));
                start = a <= T(1) ? smaller<T>(start, bound) : larger<T>(start, bound);
            }
            w[k] = at_most<T>(start, T(0));
        }
    }

    // One Newton step; `more` is memory for three more tiles. Returns the groups that need another step: those whose
    // remaining error exceeds rounding. The error is at most the squared change times the second derivatives.
    template <class Tile>
    FASTITER_INLINE mask<T> step(const Tile& t, vec<T>* w, vec<T>* more, vec<T>& nu, mask<T> active) const {
        vec<T>*e = more, *inverse_slope = e + t.steps, *change = inverse_slope + t.steps;
        vec<T> sum{}, correction{}, gain{};
        for (int64_t k = 0; k < t.steps; ++k) {
            e[k] = exp_of_nonpositive<T>(w[k]);
            inverse_slope[k] = T(1) / fma(e[k], b, broadcast(a));
            change[k] = (t.tile[k] + (nu - a) - w[k] * a - e[k] * b) * inverse_slope[k];
            sum += e[k];
            correction = fma(e[k], change[k], correction);
            gain = fma(e[k], inverse_slope[k], gain);
        }
        const vec<T> next = nu + (T(1) - t.sum(sum) - t.sum(correction)) / t.sum(gain);
        const vec<T> to = at_least<T>(at_most<T>(next, high), low), rise = to - nu;
        const T curvature = b < T(0) ? -b : b;
        vec<T> error{};
        for (int64_t k = 0; k < t.steps; ++k) {
            const vec<T> moved = at_most<T>(w[k] + fma(rise, inverse_slope[k], change[k]), T(0)), by = moved - w[k];
            error = larger<T>(e[k] * by * by * fma(inverse_slope[k], curvature, broadcast(T(1))), error);
            w[k] = select<T>(active, moved, w[k]);
        }
        nu = select<T>(active, to, nu);
        return active & (t.largest(error) > kRounding<T> / 8);
    }
};

template <class T, class Tile> FASTITER_INLINE void softmax_entropy(const Tile& t, const SoftmaxEntropy<T>& f) {
    const mask<T> wrong = subtract_largest<T>(t);
    vec<T>*w = t.tile + t.steps, *more = w + t.steps;
    const T middle = (f.low + f.high) / 2;
    f.begin(t, w, middle);
    vec<T> nu = broadcast(middle);
    mask<T> active = ~wrong;
    for (int step = 0; step < kMaxSteps && any<T>(active); ++step) active = f.step(t, w, more, nu, active);
    const mask<T> failed = wrong | active;
    for (int64_t k = 0; k < t.steps; ++k)
        t.tile[k] = select<T>(failed, broadcast(kNaN<T>), exp_of_nonpositive<T>(w[k]));
}

// A z near or above the root of z + e^z = c: the lowest of several tangents of z + e^z, and for large c, log c, which
// the bits of c give to one tenth.
template <class T> FASTITER_INLINE vec<T> log_of_prox(vec<T> c) {
    constexpr T kUnit = T(1) / T(int64_t(1) << ExpConstants<T>::mantissa), kLn2 = T(0.69314718055994530942);
    constexpr T kBias = sizeof(T) == 4 ? T(127) : T(1023);
    const vec<T> at_0 = fma(c, T(0.5), T(-0.5)), at_1 = c * T(0.26894142137);
    const vec<T> below_0 =
        smaller<T>(fma(c, T(0.73105857863), T(-0.53788284274)), fma(c, T(0.95257412682), T(-0.18970350727)));
    const vec<T> bits = __builtin_convertvector((mask<T>)at_least<T>(c, T(1)), vec<T>);
    const vec<T> log_c = (bits * kUnit - (kBias - T(0.08))) * kLn2;
    const vec<T> z = smaller<T>(smaller<T>(c, at_0), smaller<T>(at_1, below_0));
    return select<T>(c > T(1), smaller<T>(z, log_c), z);
}

constexpr int kSide = 4; // vectors processed together, to hide the latency of the exponential

// With x = a e^z: z + e^z = c = y / a - 1 - log a, for kSide vectors
template <class T> FASTITER_INLINE void entropy(vec<T> (&y)[kSide], T a, T log_a) {
    constexpr T kLow = T(-1e30);
    vec<T> c[kSide], z[kSide];
    mask<T> active[kSide], left{};
#pragma GCC unroll 4
    for (int i = 0; i < kSide; ++i) {
        c[i] = at_least<T>(at_most<T>(y[i] / a - (T(1) + log_a), kLargest<T>), kLow);
        z[i] = log_of_prox<T>(c[i]);
        active[i] = (c[i] == c[i]);
        left |= active[i];
    }
    for (int step = 0; step < kMaxSteps && any<T>(left); ++step) {
        left = mask<T>{};
#pragma GCC unroll 4
        for (int i = 0; i < kSide; ++i) {
            const vec<T> e = exp<T>(z[i]), change = (c[i] - z[i] - e) / (e + T(1));
            z[i] = select<T>(active[i], z[i] + change, z[i]);
            // the remaining error is below rounding
            active[i] &= (change * change * e > (e + T(1)) * (kRounding<T> / 8));
            left |= active[i];
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kSide; ++i) {
        // For x below a, a Newton step for log x; above, y - a (1 + log x), which rounds less than the exponential.
        const vec<T> w = z[i] + log_a, e = exp<T>(w), rest = y[i] - (w + T(1)) * a, d = (rest - e) / (e + a);
        const vec<T> below = select<T>(e > T(0), fma(e, d, e), e), x = select<T>(z[i] > T(0), rest, below);
        y[i] = select<T>(c[i] >= kLargest<T>, y[i], select<T>(active[i], broadcast(kNaN<T>), x));
    }
}

// Constants of an operator, shared by all groups: computed once per thread
template <class T, Prox P> FASTITER_INLINE auto prepared(const Groups<T>& g) {
    if constexpr (P == Prox::softmax_entropy)
        return SoftmaxEntropy<T>(g);
    else
        return broadcast(T(g.parameter));
}

template <class T, class Tile, Prox P> FASTITER_INLINE void run_tiles(const Groups<T>& g, Team team) {
    const T pad = P == Prox::l1_ball ? T(0) : -T(__builtin_inf());
    Tile tile(g, static_cast<char*>(g.workspace) + team.id * g.bytes);
    const auto with = prepared<T, P>(g);
    const int64_t blocks = Tile::blocks(g), last = blocks * (team.id + 1) / team.size;
    for (int64_t b = blocks * team.id / team.size; b < last; ++b) {
        if (has_to_stop(team, 64 * Tile::numbers(g))) return;
        tile.read(g, b, pad);
        if constexpr (P == Prox::simplex) simplex<T>(tile, with);
        if constexpr (P == Prox::l1_ball) l1_ball<T>(tile, with);
        if constexpr (P == Prox::softmax_entropy) softmax_entropy<T>(tile, with);
        tile.write(g, b);
    }
}

template <class T, Prox P> void run(const Groups<T>& g, Team team) {
    if (is_across(g))
        run_tiles<T, Across<T>, P>(g, team);
    else
        run_tiles<T, Within<T>, P>(g, team);
}

template <class T> void run_entropy(const Groups<T>& g, Team team) {
    const T a = T(g.parameter), log_a = T(logarithm(g.parameter));
    constexpr int64_t kTogether = kSide * lanes<T>, kChunk = 16 * kTogether;
    const int64_t all = g.outer * g.size * g.inner, chunks = ceil_div(all, kChunk);
    for (int64_t c = chunks * team.id / team.size; c < chunks * (team.id + 1) / team.size; ++c) {
        if (has_to_stop(team, 64 * kChunk)) return;
        for (int64_t i = c * kChunk; i < min_of((c + 1) * kChunk, all); i += kTogether) {
            vec<T> y[kSide];
            for (int k = 0; k < kSide; ++k) {
                const int64_t left = max_of(all - i - k * lanes<T>, 0);
                y[k] = load_up_to(g.y + min_of(i + k * lanes<T>, all), left);
            }
            entropy<T>(y, a, log_a);
            for (int k = 0; k < kSide; ++k) {
                const int64_t left = max_of(all - i - k * lanes<T>, 0);
                store_up_to(g.out + min_of(i + k * lanes<T>, all), y[k], left);
            }
        }
    }
}

template <class T> int64_t bytes(const Groups<T>& g) {
    const int64_t steps = is_across(g) ? g.size : ceil_div(g.size, lanes<T>);
    return round_up(5 * steps * int64_t(sizeof(vec<T>)), 64);
}

template <class T>
constexpr ProxOf<T> kernels_of = {
    {run<T, Prox::simplex>, run<T, Prox::l1_ball>, run<T, Prox::softmax_entropy>, run_entropy<T>},
    bytes<T>,
};

} // namespace

const ProxKernels prox_kernels = {kernels_of<float>, kernels_of<double>};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
