// The diagonal cells backward: one linear recurrence in reverse order, lam[t] = g[t] + J[t+1]^T lam[t+1], whose local
// factors are recomputed from the saved states. The same pass computes the gradients of x, a and p.
#include "newton/cpu/lines.hpp"

namespace fastiter::newton::FASTITER_LEVEL {
namespace {

template <class T, class C> struct ParaBackwardSteps {
    static constexpr int W = lanes<T>, G = C::gates, S = C::states, P = C::peepholes, SUMS = G + P;
    // Recomputing a step does not depend on the step after it: a single line keeps the processor busy.
    static constexpr int kSide = 1;
    static constexpr int64_t kTurn = 8; // also the prefetch distance in steps
    static constexpr int64_t kTurnAlone = 1 << 12;

    const ParaBackward<T>& p;
    const Team team;
    const ParaShape& shape = p.shape;
    const Lines<T> lines{p.shape};
    const int64_t D = shape.D;

    T* sum(int g, const Line& line) const {
        return static_cast<T*>(p.workspace) + (line.row * SUMS + g) * D + line.unit;
    }
    T* gradient(int k, const Line& line) const { return p.dfirst[k] + line.row * D + line.unit; }

    // The gradients of the states are accumulated in `dfirst`, which starts as the final states' cotangents; sums start
    // at 0.
    void enter(const Line& line) const {
        for (int k = 0; k < S; ++k) {
            const T* last = p.dlast[k] ? p.dlast[k] + line.row * D + line.unit : nullptr;
            store_up_to(gradient(k, line), last ? load_up_to(last, D - line.unit) : vec<T>{}, D - line.unit);
        }
        for (int g = 0; g < SUMS; ++g) store_up_to(sum(g, line), vec<T>{}, D - line.unit);
    }

    void pad(const Line& line) const { clear_padding(p.dwx, G, shape, line); }

    // Step t of one line
    template <bool FULL>
    FASTITER_INLINE void step(const Line& line, int64_t t, const vec<T>* a, const vec<T>* peephole, vec<T>* ds,
                              vec<T>* sums) const {
        const int64_t count = D - line.unit;
        const T* from = first_step(p.wx, shape, line) + t * stride(p.wx, shape);
        T* to = first_step(p.dwx, shape, line) + t * stride(p.dwx, shape);
        vec<T> x[G], dx[G], s[S];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
            x[g] = load_units<FULL>(from + g * p.wx.gate, count);
            __builtin_prefetch(from + g * p.wx.gate - kTurn * stride(p.wx, shape));
        }
#pragma GCC unroll 4
        for (int k = 0; k < S; ++k) {
            if (t > 0) {
                const T* before = first_step(p.states[k], shape, line) + (t - 1) * stride(p.states[k], shape);
                s[k] = load_units<FULL>(before, count);
                __builtin_prefetch(before - kTurn * stride(p.states[k], shape));
            } else {
                s[k] = p.first[k] ? load_units<FULL>(p.first[k] + line.row * D + line.unit, count) : vec<T>{};
            }
        }
        if (p.dh.data) {
            const T* dh = first_step(p.dh, shape, line) + t * stride(p.dh, shape);
            ds[0] += load_units<FULL>(dh, count);
            __builtin_prefetch(dh - kTurn * stride(p.dh, shape));
        }
        C::backward(x, a, peephole, s, ds, dx, sums);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
            store_units<FULL>(to + g * p.dwx.gate, dx[g], count);
            __builtin_prefetch(to + g * p.dwx.gate - kTurn * stride(p.dwx, shape), 1);
        }
    }

    // Steps [begin, end) of L lines, in reverse order
    template <int L, bool FULL> void run(const Line* line, int64_t begin, int64_t end) const {
        vec<T> ds[L][S], a[L][G], peephole[L][P + 1], sums[L][SUMS];
#pragma GCC unroll 4
        for (int l = 0; l < L; ++l) {
            const int64_t count = D - line[l].unit;
            for (int g = 0; g < G; ++g) a[l][g] = load_units<FULL>(p.a + g * D + line[l].unit, count);
            for (int g = 0; g < P; ++g) peephole[l][g] = load_units<FULL>(p.p + g * D + line[l].unit, count);
            for (int k = 0; k < S; ++k) ds[l][k] = load_units<FULL>(gradient(k, line[l]), count);
            for (int g = 0; g < SUMS; ++g) sums[l][g] = load_units<FULL>(sum(g, line[l]), count);
        }
        for (int64_t t = end - 1; t >= begin; --t)
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) step<FULL>(line[l], t, a[l], peephole[l], ds[l], sums[l]);
#pragma GCC unroll 4
        for (int l = 0; l < L; ++l) {
            const int64_t count = D - line[l].unit;
            for (int k = 0; k < S; ++k) store_units<FULL>(gradient(k, line[l]), ds[l][k], count);
            for (int g = 0; g < SUMS; ++g) store_units<FULL>(sum(g, line[l]), sums[l][g], count);
        }
    }

    // Steps [begin, end) of at most kSide lines, up to each line's length; lines by decreasing length
    void run_lines(const Line* line, int count, int64_t begin, int64_t end) const {
        for (int some = 1; some <= count; ++some) {
            const int64_t stop = min_of(end, line[some - 1].length),
                          start = some < count ? max_of(begin, line[some].length) : begin;
            if (stop <= start) continue;
            with_lines<kSide>(lines, line, some, [&]<int L, bool FULL>() { run<L, FULL>(line, start, stop); });
        }
    }

    void run_group(const Line* group, int count) const {
        const int64_t length = group[0].length, turn = count <= kSide ? kTurnAlone : kTurn;
        for (int64_t end = length; end > 0 && !has_to_stop(team, count * turn * kLineStep<T>); end -= turn)
            for_each_tile<kSide>(
                count, [&](int64_t first, int some) { run_lines(group + first, some, max_of(0, end - turn), end); });
    }

    // Sums over the rows in batch order, whichever thread computed them.
    void add_rows() const {
        const Range mine = share(SUMS * lines.vectors, team.id, team.size);
        for (int64_t i = mine.begin; i < mine.end; ++i) {
            const int64_t g = i / lines.vectors, unit = i % lines.vectors * W;
            vec<T> total{};
            for (int64_t row = 0; row < shape.B; ++row) total += load_up_to(sum(int(g), {row, unit, 0}), D - unit);
            store_up_to((g < G ? p.da + g * D : p.dp + (g - G) * D) + unit, total, D - unit);
        }
    }
};

} // namespace

template <class T, class C> size_t para_backward_workspace(const ParaShape& shape) {
    return size_t(shape.B * (C::gates + C::peepholes) * shape.D) * sizeof(T);
}

template <class T, class C> void para_backward(const ParaBackward<T>& p, Team team) {
    ParaBackwardSteps<T, C> steps{p, team};
    for_each_group(steps.lines, p.wx, ParaBackwardSteps<T, C>::kSide, team, [&](const Line* group, int count) {
        for (int i = 0; i < count; ++i) steps.enter(group[i]);
        steps.run_group(group, count);
        for (int i = 0; i < count; ++i) steps.pad(group[i]);
    });
    if (!p.da) return;
    wait(team.barriers[0], team.size);
    steps.add_rows();
}

#define FASTITER_INSTANTIATE(T, ...)                                           \
    template size_t para_backward_workspace<T, __VA_ARGS__>(const ParaShape&); \
    template void para_backward<T, __VA_ARGS__>(const ParaBackward<T>&, Team);
#define FASTITER_INSTANTIATE_ALL(T)      \
    FASTITER_INSTANTIATE(T, ParaGru<T>)  \
    FASTITER_INSTANTIATE(T, ParaLstm<T>) \
    FASTITER_INSTANTIATE(T, ParaSlstm<T>)
FASTITER_INSTANTIATE_ALL(float)
FASTITER_INSTANTIATE_ALL(double)

} // namespace fastiter::newton::FASTITER_LEVEL
