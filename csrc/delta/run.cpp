#include "delta/run.hpp"
#include "core/launch.hpp"
#include <algorithm>

namespace fastiter::delta {
namespace {

// As many threads as there are units of work; one if the work takes about as long as starting a team.
int useful(int threads, int64_t units, const DeltaShape& s) {
    constexpr double kSmall = 1e5; // elements of the state times steps
    if (double(s.starts ? 1 : s.rows) * double(s.T * s.M * s.N) * double(s.K * s.V) < kSmall) return 1;
    return int(std::clamp<int64_t>(units, 1, threads));
}

} // namespace

template <class T> void run_delta_forward(DeltaForward<T> p) {
    const KernelsOf<T>& k = kernels().of<T>();
    auto job = [](const void* params, Team team) {
        kernels().of<T>().fwd(*static_cast<const DeltaForward<T>*>(params), team);
    };
    run(p, job, [&](int threads) {
        threads = useful(threads, p.shape.rows * p.shape.N * k.blocks(p.shape), p.shape);
        p.workspace = workspace.of(k.fwd_workspace(p, threads));
        return threads;
    });
}

template <class T> void run_delta_backward(DeltaBackward<T> p) {
    const KernelsOf<T>& k = kernels().of<T>();
    auto job = [](const void* params, Team team) {
        kernels().of<T>().bwd(*static_cast<const DeltaBackward<T>*>(params), team);
    };
    run(p, job, [&](int threads) {
        const int64_t heads = p.shape.rows * p.shape.N, blocks = k.bwd_blocks(p.shape);
        p.split = heads < useful(threads, heads * blocks, p.shape);
        threads = useful(threads, p.split ? heads * blocks : heads, p.shape);
        p.workspace = workspace.of(k.bwd_workspace(p, threads));
        return threads;
    });
}

#define FASTITER_INSTANTIATE(T)                       \
    template void run_delta_forward(DeltaForward<T>); \
    template void run_delta_backward(DeltaBackward<T>);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::delta
