#include "scan/run.hpp"
#include "core/launch.hpp"
#include <algorithm>

namespace fastiter::scan {
namespace {

// As many threads as have work for longer than waking them takes
int threads_for(const ScanShape& s, int64_t per_number, int threads) {
    constexpr int64_t kLeast = 1 << 15;
    const int64_t numbers = (s.starts ? 1 : s.B) * s.T * s.D * (s.complex ? 2 : 1) * per_number;
    return int(std::clamp<int64_t>(numbers / kLeast, 1, threads));
}

} // namespace

template <class S, class T> void run_linear_scan(LinearScan<S, T> p) {
    auto job = [](const void* params, Team team) {
        kernels().linear<S>().forward(*static_cast<const LinearScan<S, T>*>(params), team);
    };
    run(p, job, [&](int threads) { return threads_for(p.shape, 1, threads); });
}

template <class S, class T> void run_linear_scan_gradient(LinearScanGradient<S, T> p) {
    auto job = [](const void* params, Team team) {
        kernels().linear<S>().gradient(*static_cast<const LinearScanGradient<S, T>*>(params), team);
    };
    run(p, job, [&](int threads) {
        const size_t bytes = kernels().linear<S>().gradient_workspace(p);
        p.workspace = bytes ? workspace.of(bytes) : nullptr;
        return threads_for(p.shape, 2, threads);
    });
}

template <class T> void run_block_scan(BlockScan<T> p) {
    auto job = [](const void* params, Team team) {
        kernels().block<T>().forward(*static_cast<const BlockScan<T>*>(params), team);
    };
    run(p, job, [&](int threads) { return threads_for(p.shape, p.K, threads); });
}

template <class T> void run_block_scan_gradient(BlockScanGradient<T> p) {
    auto job = [](const void* params, Team team) {
        kernels().block<T>().gradient(*static_cast<const BlockScanGradient<T>*>(params), team);
    };
    run(p, job, [&](int threads) {
        const size_t bytes = kernels().block<T>().gradient_workspace(p);
        p.workspace = bytes ? workspace.of(bytes) : nullptr;
        return threads_for(p.shape, 2 * p.K, threads);
    });
}

template void run_block_scan(BlockScan<float>);
template void run_block_scan(BlockScan<double>);
template void run_block_scan_gradient(BlockScanGradient<float>);
template void run_block_scan_gradient(BlockScanGradient<double>);

#define FASTITER_INSTANTIATE(S, T)                   \
    template void run_linear_scan(LinearScan<S, T>); \
    template void run_linear_scan_gradient(LinearScanGradient<S, T>);
FASTITER_INSTANTIATE(float, float)
FASTITER_INSTANTIATE(double, double)
FASTITER_INSTANTIATE(bf16, float)

} // namespace fastiter::scan
