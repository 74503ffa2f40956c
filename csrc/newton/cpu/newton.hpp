// Newton's method on windows of time, for the diagonal cells. A pass reads the old states y and writes the new ones:
//
//   y+[t] = f(y[t-1]) + J(y[t-1]) (y+[t-1] - y[t-1]),   where before the window y+ = y is the true state
//
// The leading steps whose residual and change are within the tolerance become final, and the first step always does, as
// everything before it is known. A window that needs too many passes, whose changes grow, or that is not finite is
// finished step by step. A line whose states are so sensitive that the tolerance implies nothing about their error is
// run by the loop from its first step on.
#pragma once
#include "newton/cpu/sequential.hpp"

namespace fastiter::newton::FASTITER_LEVEL {
namespace {

// L lines of one row that converge together. Whether a vector of units is full is tested on every load: a second copy
// of this code for full vectors is no faster and doubles the compile time.
template <class T, class C, int L> struct Block {
    static constexpr int W = lanes<T>, G = C::gates, S = C::states, P = C::peepholes, J = C::slopes;
    static constexpr T kGrowth = 4; // maximum growth of the sum of changes from pass to pass
    // Maximum growth of an error from any step to any later one: beyond it, rounding errors determine the states.
    static constexpr T kSensitive = 256;

    const ParaForward<T>& p;
    const Team team;
    const ParaShape& shape = p.shape;
    const Line* line;
    vec<T>* y; // states of a window, [step][line][state]
    const vec<T> rtol = broadcast(T(p.newton.rtol)), atol = broadcast(T(p.newton.atol));
    const bool is_exact = p.newton.rtol == 0 && p.newton.atol == 0; // tolerances of 0: no errors that could grow
    vec<T> a[L][G], peephole[L][P + 1];
    vec<T> state[L][S];      // after the last final step
    vec<T> error[L][S] = {}; // amplification of an error of 1 + |y|, measured from the step with the largest growth
    bool is_sensitive = false;

    Block(const ParaForward<T>& params, Team team_, const Line* lines, vec<T>* y_)
        : p(params), team(team_), line(lines), y(y_) {
        for (int l = 0; l < L; ++l) {
            const int64_t count = shape.D - line[l].unit;
            for (int g = 0; g < G; ++g) a[l][g] = load_up_to(p.a + g * shape.D + line[l].unit, count);
            for (int g = 0; g < P; ++g) peephole[l][g] = load_up_to(p.p + g * shape.D + line[l].unit, count);
            for (int k = 0; k < S; ++k) state[l][k] = load_up_to(last(l, k), count);
        }
    }

    T* last(int l, int k) const { return p.last[k] + line[l].row * shape.D + line[l].unit; }

    FASTITER_INLINE void inputs(int l, int64_t t, vec<T>* x) const {
        const T* from = first_step(p.wx, shape, line[l]) + t * stride(p.wx, shape);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) x[g] = load_up_to(from + g * p.wx.gate, shape.D - line[l].unit);
    }

    // Initial guess: each step computed from states of 0
    void guess(int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t)
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) {
                vec<T> x[G], keep[4], s[S] = {};
                inputs(l, t, x);
                C::begin(x, a[l], peephole[l], s, keep);
                C::finish(s, keep);
                for (int k = 0; k < S; ++k) y[((t - begin) * L + l) * S + k] = s[k];
            }
    }

    // Propagates an error in the known states before a final step to the states after it, `y_t`.
    FASTITER_INLINE void pass_error_on(const vec<T> (&j)[L][J], const vec<T>* y_t) {
        mask<T> bad{};
#pragma GCC unroll 4
        for (int l = 0; l < L; ++l) {
            C::times(j[l], error[l]);
#pragma GCC unroll 4
            for (int k = 0; k < S; ++k) {
                const vec<T> unit = magnitude<T>(y_t[l * S + k]) + T(1), size = magnitude<T>(error[l][k]);
                if (k < C::unknowns) error[l][k] = select<T>(size < unit, copy_sign<T>(unit, error[l][k]), error[l][k]);
                bad |= ~(size <= unit * kSensitive); // a NaN is bad
            }
        }
        if (!is_exact && any<T>(bad)) is_sensitive = true;
    }

    struct Progress {
        int64_t final_steps;
        T change; // sum of all changes; not finite if one is not
    };

    // One pass over steps [begin, end), whose old states are at y_begin
    Progress pass(int64_t begin, int64_t end, vec<T>* y_begin) {
        vec<T> old[L][S], delta[L][S] = {}, limit[L][S], j[L][J], total{};
        for (int l = 0; l < L; ++l) {
            for (int k = 0; k < S; ++k) old[l][k] = state[l][k];
            C::bounds(old[l], limit[l]);
        }
        int64_t final_steps = 0;
        bool all_final = true;
        for (int64_t t = begin; t < end; ++t) {
            vec<T>* y_t = y_begin + (t - begin) * L * S;
            mask<T> bad{};
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) {
                vec<T> x[G], fresh[S];
                inputs(l, t, x);
                C::linearise(x, a[l], peephole[l], old[l], j[l]);
                C::times(j[l], delta[l]);
#pragma GCC unroll 4
                for (int k = 0; k < S; ++k)
                    fresh[k] = select<T>(delta[l][k] == T(0), old[l][k], old[l][k] + delta[l][k]); // keeps a -0
                C::restrain(fresh, limit[l]);
#pragma GCC unroll 4
                for (int k = 0; k < S; ++k) {
                    vec<T>& before = y_t[l * S + k];
                    vec<T> residual{};
                    if (k < C::unknowns) {
                        residual = magnitude<T>(old[l][k] - before);
                        old[l][k] = before;
                        delta[l][k] = fresh[k] - before;
                    }
                    before = fresh[k];
                    const vec<T> change = magnitude<T>(delta[l][k]), bound = fma(rtol, magnitude<T>(fresh[k]), atol);
                    bad |= ~((change <= bound) & (residual <= bound)); // a NaN is bad
                    total += change;
                }
            }
            if (!all_final) continue;
            all_final = !any<T>(bad);
            if (!all_final && t > begin) continue;
            ++final_steps;
            pass_error_on(j, y_t);
        }
        T change = 0;
        for (int i = 0; i < W; ++i) change += total[i];
        return {final_steps, change};
    }

    // The rest of a window, step by step
    void step_by_step(int64_t begin, int64_t end, vec<T>* y_begin) {
        for (int64_t t = begin; t < end; ++t) {
            vec<T>*y_t = y_begin + (t - begin) * L * S, j[L][J];
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) {
                vec<T> x[G];
                inputs(l, t, x);
                C::linearise(x, a[l], peephole[l], state[l], j[l]);
                for (int k = 0; k < S; ++k) y_t[l * S + k] = state[l][k];
            }
            pass_error_on(j, y_t);
        }
    }

    // Makes steps [begin, end) final: writes their states to the caller's arrays, if present, and continues from the
    // last one.
    void keep(int64_t begin, int64_t end, const vec<T>* y_begin) {
        for (int l = 0; l < L; ++l)
            for (int k = 0; k < S; ++k) {
                const vec<T>* from = y_begin + l * S + k;
                state[l][k] = from[(end - 1 - begin) * L * S];
                if (!p.states[k].data) continue;
                T* to = first_step(p.states[k], shape, line[l]) + begin * stride(p.states[k], shape);
                for (int64_t t = 0; t < end - begin; ++t)
                    store_up_to(to + t * stride(p.states[k], shape), from[t * L * S], shape.D - line[l].unit);
            }
    }

    // Solves one window, steps [begin, end); returns its entry of `counts`.
    int32_t solve(int64_t begin, int64_t end) {
        guess(begin, end);
        vec<T>* y_begin = y;
        T before = T(__builtin_inf());
        int32_t passes = 0;
        while (begin < end && passes < p.newton.max_steps && before == before) {
            const Progress progress = pass(begin, end, y_begin);
            if (has_to_stop(team, L * (end - begin) * kLineStep<T>)) return 0;
            ++passes;
            keep(begin, begin + progress.final_steps, y_begin);
            begin += progress.final_steps;
            y_begin += progress.final_steps * L * S;
            if (!(progress.change < kGrowth * before)) break;
            before = progress.change;
        }
        if (begin == end) return 2 * passes;
        step_by_step(begin, end, y_begin);
        keep(begin, end, y_begin);
        return 2 * passes + 1;
    }

    // Solves all windows; returns false if the line has to be run by the loop instead.
    bool run(int32_t* counts) {
        const int64_t length = line[0].length;
        for (int64_t begin = 0; begin < length; begin += p.newton.window) {
            *counts++ = solve(begin, min_of(length, begin + p.newton.window));
            if (has_to_stop(team, 0)) return true;
            if (is_sensitive) return false;
        }
        for (int l = 0; l < L; ++l)
            for (int k = 0; k < S; ++k) store_up_to(last(l, k), state[l][k], shape.D - line[l].unit);
        return true;
    }
};

template <class T, class C>
void run_block(const ParaSteps<T, C>& steps, const Line* line, int count, vec<T>* y, int32_t* counts) {
    for (int l = 0; l < count; ++l) steps.enter(line[l]);
    with_count<kSide>(count, [&]<int L>() {
        if (Block<T, C, L>(steps.p, steps.team, line, y).run(counts)) return;
        const int64_t windows = ceil_div(line[0].length, steps.p.newton.window);
        for (int64_t i = 0; i < windows; ++i) counts[i] |= 1;
        steps.run_group(line, L);
    });
    for (int l = 0; l < count; ++l) steps.pad(line[l]);
}

// Workspace of one thread, for y
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
    const ParaSteps<T, C> steps{p, team};
    vec<T>* y = static_cast<vec<T>*>(p.workspace) + team.id * window_vectors<T, C>(p);
    const int64_t vectors = steps.lines.vectors, blocks = newton_blocks<T>(p.shape),
                  windows = ceil_div(p.shape.T, p.newton.window);
    for (int64_t i = team.id; i < p.shape.B * blocks; i += team.size) { // round-robin, as rows get shorter
        Line line[kSide];
        const int64_t first = i % blocks * kSide;
        const int count = int(min_of(kSide, vectors - first));
        for (int l = 0; l < count; ++l) line[l] = steps.lines.at(i / blocks * vectors + first + l);
        run_block<T, C>(steps, line, count, y, p.counts + (line[0].row * blocks + i % blocks) * windows);
    }
}

#define FASTITER_NEWTON_OF_CELL(T, ...)                                           \
    template size_t newton_workspace<T, __VA_ARGS__>(const ParaForward<T>&, int); \
    template void newton<T, __VA_ARGS__>(const ParaForward<T>&, Team);
#define FASTITER_NEWTON(T)                               \
    template int64_t newton_blocks<T>(const ParaShape&); \
    FASTITER_NEWTON_OF_CELL(T, ParaGru<T>)               \
    FASTITER_NEWTON_OF_CELL(T, ParaLstm<T>)              \
    FASTITER_NEWTON_OF_CELL(T, ParaSlstm<T>)

} // namespace fastiter::newton::FASTITER_LEVEL
