// The diagonal cells step by step. A few lines go through time side by side with their states and weights in registers:
// one alone would wait for its own activations.
#include "para_forward.hpp"

namespace fastiter::FASTITER_LEVEL {

template <class T, class C> void para_forward(const ParaForward<T>& p, Team team) {
    ParaSteps<T, C> steps{p};
    for_each_group(steps.lines, p.wx, kSide, team, [&](const Line* group, int count) {
        for (int i = 0; i < count; ++i) steps.enter(group[i]);
        steps.run_group(group, count);
        for (int i = 0; i < count; ++i) steps.pad(group[i]);
    });
}

#define FASTITER_INSTANTIATE(T)                                              \
    template void para_forward<T, ParaGru<T>>(const ParaForward<T>&, Team);  \
    template void para_forward<T, ParaLstm<T>>(const ParaForward<T>&, Team); \
    template void para_forward<T, ParaSlstm<T>>(const ParaForward<T>&, Team);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

namespace {

// Calls f<cell type>() for the cell's tag.
template <class T, class F> auto with_cell(ParaCell cell, F f) {
    if (cell == ParaCell::gru) return f.template operator()<ParaGru<T>>();
    if (cell == ParaCell::lstm) return f.template operator()<ParaLstm<T>>();
    return f.template operator()<ParaSlstm<T>>();
}

template <class T>
constexpr NewtonKernelsOf<T> kernels_of = {
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

extern const NewtonKernels newton_kernels;
const NewtonKernels newton_kernels = {kernels_of<float>, kernels_of<double>};

} // namespace fastiter::FASTITER_LEVEL
