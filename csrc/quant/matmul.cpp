#include "quant/matmul.hpp"
#include "core/dispatch.hpp"
#include "core/kernels.hpp"
#include "core/launch.hpp"

namespace fastiter {

void run_quant_matmul(QuantMatmul g) {
    auto job = [](const void* params, Team team) {
        kernels().quant_matmul->run(*static_cast<const QuantMatmul*>(params), team);
    };
    constexpr double kSmall = 1e5; // steps that take about as long as starting a team
    run(g, job, [&](int threads) {
        if (double(g.M) * double(g.N) * double(g.K) < kSmall) threads = 1;
        g.workspace = workspace.of(kernels().quant_matmul->workspace(g, threads));
        return threads;
    });
}

} // namespace fastiter
