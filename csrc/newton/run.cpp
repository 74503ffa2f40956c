#include "newton/run.hpp"
#include "core/launch.hpp"
#include "core/rows.hpp"
#include <algorithm>
#include <vector>

namespace fastiter::newton {
namespace {

template <class T> const KernelsOf<T>& table() { return kernels().of<KernelsOf<T>>(); }

int useful(const ParaShape& shape, int threads) {
    constexpr int64_t kElements = 8192; // elements of h: two or three times the time to start a team
    return threads_for(shape.B * shape.T * shape.D, kElements, threads);
}

template <class T> void run_newton(ParaForward<T>& p, int64_t* steps) {
    const int64_t blocks = table<T>().newton_blocks(p.shape),
                  windows = (p.shape.T + p.newton.window - 1) / p.newton.window;
    std::vector<int32_t> counts(size_t(p.shape.B * blocks * windows));
    p.counts = counts.data();
    launch(table<T>().newton, p, [&](int threads) {
        threads = useful(p.shape, threads);
        p.workspace = workspace.of(table<T>().newton_workspace(p, threads));
        return threads;
    });
    if (!steps) return;
    for (int64_t row = 0; row < p.shape.B; ++row) {
        int64_t largest = 0, abandoned = 0;
        for (int64_t w = 0; w < windows; ++w) {
            int32_t gave_up = 0;
            for (int64_t block = 0; block < blocks; ++block) {
                const int32_t count = counts[size_t((row * blocks + block) * windows + w)];
                largest = std::max<int64_t>(largest, count / 2);
                gave_up |= count & 1;
            }
            abandoned += gave_up;
        }
        steps[row] = largest;
        steps[p.shape.B + row] = abandoned;
    }
}

} // namespace

template <class T> void run_para_forward(ParaForward<T> p, int64_t* steps) {
    const std::vector<int64_t> order = by_length(p.shape.lengths, p.shape.B);
    if (p.shape.lengths) p.shape.order = order.data();
    if (p.newton.window) return run_newton(p, steps);
    launch(table<T>().forward, p, [&](int threads) { return useful(p.shape, threads); });
}

template <class T> void run_para_backward(ParaBackward<T> p) {
    const std::vector<int64_t> order = by_length(p.shape.lengths, p.shape.B);
    if (p.shape.lengths) p.shape.order = order.data();
    launch(table<T>().backward, p, [&](int threads) {
        p.workspace = workspace.of(table<T>().backward_workspace(p.shape));
        return useful(p.shape, threads);
    });
}

#define FASTITER_INSTANTIATE(T)                               \
    template void run_para_forward(ParaForward<T>, int64_t*); \
    template void run_para_backward(ParaBackward<T>);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::newton
