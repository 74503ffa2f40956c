// Newton's method on windows of time, for the diagonal cells. A pass reads the old states y and writes the new ones:
//
//   y+[t] = f(y[t-1]) + J(y[t-1]) (y+[t-1] - y[t-1]),   where before the window y+ = y is the true state
//
// The leading steps whose residual and change are within the tolerance are final, and so is the first one in any case:
// nothing before it is in doubt. A window that takes too long, grows or is not finite goes on step by step; docs/newton.md.
#include "para_forward.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

template <class T, class C> struct Windows {
    static constexpr int W = lanes<T>, G = C::gates, S = C::states, P = C::peepholes;
    static constexpr T kGrowth = 4; // how much the sum of changes may grow from pass to pass

    const ParaForward<T>& p;
    vec<T>* y; // [step of the window][line][state]
    const ParaSteps<T, C> steps{p};
    const ParaShape& shape = p.shape;

    template <int L> struct Weights {
        vec<T> a[L][G], peephole[L][P + 1];
        template <bool FULL> void read(const ParaForward<T>& p, const Line* line) {
            for (int l = 0; l < L; ++l) {
                const int64_t D = p.shape.D, unit = line[l].unit;
                for (int g = 0; g < G; ++g) a[l][g] = load_units<FULL>(p.a + g * D + unit, D - unit);
                for (int g = 0; g < P; ++g) peephole[l][g] = load_units<FULL>(p.p + g * D + unit, D - unit);
            }
        }
    };

    template <bool FULL> FASTITER_INLINE void inputs(const Line& line, int64_t t, vec<T>* x) const {
        const T* from = first_step(p.wx, shape, line) + t * stride(p.wx, shape);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) x[g] = load_units<FULL>(from + g * p.wx.gate, shape.D - line.unit);
    }

    // The first guess: each step from states of 0
    template <int L, bool FULL> void guess(const Line* line, int64_t begin, int64_t end) const {
        Weights<L> w;
        w.template read<FULL>(p, line);
        for (int64_t t = begin; t < end; ++t)
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) {
                vec<T> x[G], keep[4], s[S] = {};
                inputs<FULL>(line[l], t, x);
                C::begin(x, w.a[l], w.peephole[l], s, keep);
                C::finish(s, keep);
                for (int k = 0; k < S; ++k) y[((t - begin) * L + l) * S + k] = s[k];
            }
    }

    struct Progress {
        int64_t final_steps;
        T change; // the sum of all changes; not finite where one is not
    };

    // One pass over steps [begin, end) with the states `y_begin`
    template <int L, bool FULL> Progress pass(const Line* line, int64_t begin, int64_t end, vec<T>* y_begin) const {
        const vec<T> rtol = broadcast(T(p.newton.rtol)), atol = broadcast(T(p.newton.atol));
        Weights<L> w;
        w.template read<FULL>(p, line);
        vec<T> old[L][S], delta[L][S] = {}, limit[L][S], total{};
        for (int l = 0; l < L; ++l) {
            for (int k = 0; k < S; ++k) old[l][k] = load_units<FULL>(steps.state(k, line[l]), shape.D - line[l].unit);
            C::bounds(old[l], limit[l]);
        }
        int64_t final_steps = end - begin;
        for (int64_t t = begin; t < end; ++t) {
            mask<T> bad{};
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) {
                vec<T> x[G], *y_t = y_begin + ((t - begin) * L + l) * S;
                inputs<FULL>(line[l], t, x);
                C::newton(x, w.a[l], w.peephole[l], old[l], delta[l]);
                vec<T> fresh[S];
#pragma GCC unroll 4
                for (int k = 0; k < S; ++k) fresh[k] = old[l][k] + delta[l][k];
                C::restrain(fresh, limit[l]);
#pragma GCC unroll 4
                for (int k = 0; k < S; ++k) {
                    vec<T> residual{};
                    if (k < C::unknowns) {
                        residual = magnitude<T>(old[l][k] - y_t[k]);
                        old[l][k] = y_t[k];
                        delta[l][k] = fresh[k] - y_t[k];
                    }
                    y_t[k] = fresh[k];
                    const vec<T> change = magnitude<T>(delta[l][k]), bound = fma(rtol, magnitude<T>(fresh[k]), atol);
                    bad |= ~((change <= bound) & (residual <= bound)); // a NaN is bad
                    total += change;
                }
            }
            if (final_steps == end - begin && any<T>(bad)) final_steps = max_of(t - begin, 1);
        }
        T change = 0;
        for (int i = 0; i < W; ++i) change += total[i];
        return {final_steps, change};
    }

    // Steps [begin, end) are final: they go where the caller has a place, and the last of them is the state.
    template <int L, bool FULL> void keep(const Line* line, int64_t begin, int64_t end, const vec<T>* y_begin) const {
        for (int l = 0; l < L; ++l)
            for (int k = 0; k < S; ++k) {
                const int64_t count = shape.D - line[l].unit;
                const vec<T>* from = y_begin + l * S + k;
                if (p.states[k].data) {
                    T* to = first_step(p.states[k], shape, line[l]) + begin * stride(p.states[k], shape);
                    for (int64_t t = 0; t < end - begin; ++t)
                        store_units<FULL>(to + t * stride(p.states[k], shape), from[t * L * S], count);
                }
                store_units<FULL>(steps.state(k, line[l]), from[(end - 1 - begin) * L * S], count);
            }
    }

    // Steps [begin, end), a window; returns its entry of `counts`.
    template <int L, bool FULL> int32_t solve(const Line* line, int64_t begin, int64_t end) const {
        guess<L, FULL>(line, begin, end);
        vec<T>* y_begin = y;
        T before = T(__builtin_inf());
        for (int32_t passes = 1; passes <= p.newton.max_steps; ++passes) {
            const Progress progress = pass<L, FULL>(line, begin, end, y_begin);
            keep<L, FULL>(line, begin, begin + progress.final_steps, y_begin);
            begin += progress.final_steps;
            y_begin += progress.final_steps * L * S;
            if (begin == end) return 2 * passes;
            if (!(progress.change < kGrowth * before)) {
                steps.run_lines(line, L, begin, end);
                return 2 * passes + 1;
            }
            before = progress.change;
        }
        steps.run_lines(line, L, begin, end);
        return 2 * int32_t(p.newton.max_steps) + 1;
    }

    void run_block(const Line* line, int count, int32_t* counts) const {
        for (int l = 0; l < count; ++l) steps.enter(line[l]);
        const bool full = steps.lines.is_whole(line[count - 1]);
        for (int64_t begin = 0; begin < line[0].length; begin += p.newton.window) {
            const int64_t end = min_of(line[0].length, begin + p.newton.window);
            with_count<kSide>(count, [&]<int L>() {
                *counts++ = full ? solve<L, true>(line, begin, end) : solve<L, false>(line, begin, end);
            });
        }
        for (int l = 0; l < count; ++l) steps.pad(line[l]);
    }
};

// What one thread needs for its y
template <class T, class C> int64_t window_vectors(const ParaForward<T>& p) {
    return min_of(p.newton.window, p.shape.T) * kSide * C::states;
}

} // namespace

template <class T> int64_t newton_blocks(const ParaShape& shape) {
    return ceil_div(ceil_div(shape.D, lanes<T>), kSide);
}

template <class T, class C> size_t newton_workspace(const ParaForward<T>& p, int threads) {
    return size_t(threads * window_vectors<T, C>(p)) * sizeof(vec<T>);
}

template <class T, class C> void newton(const ParaForward<T>& p, Team team) {
    const Windows<T, C> windows{p, static_cast<vec<T>*>(p.workspace) + team.id * window_vectors<T, C>(p)};
    const Lines<T>& lines = windows.steps.lines;
    const int64_t blocks = newton_blocks<T>(p.shape), per_block = ceil_div(p.shape.T, p.newton.window);
    for (int64_t i = team.id; i < p.shape.B * blocks; i += team.size) { // dealt out: rows get shorter
        Line line[kSide];
        const int64_t first = i % blocks * kSide, row = i / blocks * lines.vectors;
        const int count = int(min_of(kSide, lines.vectors - first));
        for (int l = 0; l < count; ++l) line[l] = lines.at(row + first + l);
        windows.run_block(line, count, p.counts + (line[0].row * blocks + i % blocks) * per_block);
    }
}

#define FASTITER_INSTANTIATE(T, ...)                                              \
    template size_t newton_workspace<T, __VA_ARGS__>(const ParaForward<T>&, int); \
    template void newton<T, __VA_ARGS__>(const ParaForward<T>&, Team);
#define FASTITER_INSTANTIATE_ALL(T)                      \
    template int64_t newton_blocks<T>(const ParaShape&); \
    FASTITER_INSTANTIATE(T, ParaGru<T>)                  \
    FASTITER_INSTANTIATE(T, ParaLstm<T>)                 \
    FASTITER_INSTANTIATE(T, ParaSlstm<T>)
FASTITER_INSTANTIATE_ALL(float)
FASTITER_INSTANTIATE_ALL(double)

} // namespace fastiter::FASTITER_LEVEL
