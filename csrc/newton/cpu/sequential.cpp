// The diagonal cells step by step. A few lines advance in time together, with their states and weights in registers, to
// hide the latency of their activations.
#include "newton/cpu/sequential.hpp"

namespace fastiter::newton::FASTITER_LEVEL {

template <class T, class C>
template <int L, bool FULL>
void ParaSteps<T, C>::run(const Line* line, int64_t begin, int64_t end) const {
    const int64_t dx = stride(p.wx, shape), gate = p.wx.gate;
    const T* from[L];
    T* to[S][L];
    int64_t count[L];
    vec<T> s[L][S], a[L][G], peephole[L][P + 1];
#pragma GCC unroll 4
    for (int l = 0; l < L; ++l) {
        count[l] = shape.D - line[l].unit;
        from[l] = first_step(p.wx, shape, line[l]);
        for (int k = 0; k < S; ++k) {
            to[k][l] = p.states[k].data ? first_step(p.states[k], shape, line[l]) : nullptr;
            s[l][k] = load_units<FULL>(state(k, line[l]), count[l]);
        }
        for (int g = 0; g < G; ++g) a[l][g] = load_units<FULL>(p.a + g * shape.D + line[l].unit, count[l]);
        for (int g = 0; g < P; ++g) peephole[l][g] = load_units<FULL>(p.p + g * shape.D + line[l].unit, count[l]);
    }
    for (int64_t t = begin; t < end; ++t) {
        vec<T> keep[L][4];
#pragma GCC unroll 4
        for (int l = 0; l < L; ++l) {
            vec<T> x[G];
#pragma GCC unroll 4
            for (int g = 0; g < G; ++g) {
                x[g] = load_units<FULL>(from[l] + t * dx + g * gate, count[l]);
                __builtin_prefetch(from[l] + (t + kTurn) * dx + g * gate);
            }
            C::begin(x, a[l], peephole[l], s[l], keep[l]);
        }
#pragma GCC unroll 4
        for (int l = 0; l < L; ++l) {
            C::finish(s[l], keep[l]);
#pragma GCC unroll 4
            for (int k = 0; k < S; ++k)
                if (to[k][l]) {
                    store_units<FULL>(to[k][l] + t * stride(p.states[k], shape), s[l][k], count[l]);
                    __builtin_prefetch(to[k][l] + (t + kTurn) * stride(p.states[k], shape), 1);
                }
        }
    }
    for (int l = 0; l < L; ++l)
        for (int k = 0; k < S; ++k) store_units<FULL>(state(k, line[l]), s[l][k], count[l]);
}

template <class T, class C>
void ParaSteps<T, C>::run_lines(const Line* line, int count, int64_t begin, int64_t end) const {
    for (; count > 0 && begin < end; --count) {
        const int64_t stop = min_of(end, line[count - 1].length);
        if (stop <= begin) continue;
        with_lines<kSide>(lines, line, count, [&]<int L, bool FULL>() { run<L, FULL>(line, begin, stop); });
        begin = stop;
    }
}

template <class T, class C> void para_forward(const ParaForward<T>& p, Team team) {
    ParaSteps<T, C> steps{p, team};
    for_each_group(steps.lines, p.wx, kSide, team, [&](const Line* group, int count) {
        for (int i = 0; i < count; ++i) steps.enter(group[i]);
        steps.run_group(group, count);
        for (int i = 0; i < count; ++i) steps.pad(group[i]);
    });
}

#define FASTITER_INSTANTIATE(T, ...)                                                              \
    template void ParaSteps<T, __VA_ARGS__>::run_lines(const Line*, int, int64_t, int64_t) const; \
    template void para_forward<T, __VA_ARGS__>(const ParaForward<T>&, Team);
#define FASTITER_INSTANTIATE_ALL(T)      \
    FASTITER_INSTANTIATE(T, ParaGru<T>)  \
    FASTITER_INSTANTIATE(T, ParaLstm<T>) \
    FASTITER_INSTANTIATE(T, ParaSlstm<T>)
FASTITER_INSTANTIATE_ALL(float)
FASTITER_INSTANTIATE_ALL(double)

namespace {

// Calls f<cell type>() for the cell's tag.
template <class T, class F> auto with_cell(ParaCell cell, F f) {
    if (cell == ParaCell::gru) return f.template operator()<ParaGru<T>>();
    if (cell == ParaCell::lstm) return f.template operator()<ParaLstm<T>>();
    return f.template operator()<ParaSlstm<T>>();
}

template <class T>
constexpr KernelsOf<T> kernels_for = {
    [](const ParaForward<T>& p, Team team) {
        with_cell<T>(p.shape.cell, [&]<class C>() { para_forward<T, C>(p, team); });
    },
    newton_blocks<T>,
    [](const ParaForward<T>& p, int threads) {
        return with_cell<T>(p.shape.cell, [&]<class C>() { return newton_workspace<T, C>(p, threads); });
    },
    [](const ParaForward<T>& p, Team team) { with_cell<T>(p.shape.cell, [&]<class C>() { newton<T, C>(p, team); }); },
    [](const ParaShape& shape) {
        return with_cell<T>(shape.cell, [&]<class C>() { return para_backward_workspace<T, C>(shape); });
    },
    [](const ParaBackward<T>& p, Team team) {
        with_cell<T>(p.shape.cell, [&]<class C>() { para_backward<T, C>(p, team); });
    },
};

} // namespace

const Kernels kernels = {kernels_for<float>, kernels_for<double>};

} // namespace fastiter::newton::FASTITER_LEVEL
