#include "quant/matmul.hpp"
#include "core/launch.hpp"

namespace fastiter::quant {

void run_quant_matmul(QuantMatmul g) {
    auto job = [](const void* params, Team team) {
        matmul_kernels().run(*static_cast<const QuantMatmul*>(params), team);
    };
    constexpr double kSmall = 1e5; // steps that take about as long as starting a team
    run(g, job, [&](int threads) {
        if (double(g.M) * double(g.N) * double(g.K) < kSmall) threads = 1;
        g.workspace = workspace.of(matmul_kernels().workspace(g, threads));
        return threads;
    });
}

} // namespace fastiter::quant
