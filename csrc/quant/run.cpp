#include "quant/run.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <vector>

namespace fastiter::quant {
namespace {

// As many threads as have work for longer than waking them takes
int threads_for(int64_t elements, int threads) {
    constexpr int64_t kLeast = 1 << 15;
    return int(std::clamp<int64_t>(elements / kLeast, 1, threads));
}

} // namespace

QuantCounts run_quant(QuantJob job) {
    std::vector<QuantCounts> counts;
    auto call = [](const void* params, Team team) { kernels().run(*static_cast<const QuantJob*>(params), team); };
    run(job, call, [&](int threads) {
        threads = threads_for(job.lines * job.n, threads);
        counts.assign(size_t(threads), {});
        job.counts = counts.data();
        return threads;
    });
    QuantCounts sum;
    for (const QuantCounts& c : counts) sum.nan += c.nan, sum.overflow += c.overflow, sum.underflow += c.underflow;
    return sum;
}

void run_pack(PackJob job) {
    auto call = [](const void* params, Team team) { kernels().pack(*static_cast<const PackJob*>(params), team); };
    run(job, call, [&](int threads) { return threads_for(job.lines * job.n, threads); });
}

double run_quant_gradient(QuantGradientJob job, bool sum) {
    std::vector<double> sums(sum ? size_t((job.n + kGradientPart - 1) / kGradientPart) : 0);
    job.sums = sum ? sums.data() : nullptr;
    auto call = [](const void* params, Team team) {
        kernels().gradient(*static_cast<const QuantGradientJob*>(params), team);
    };
    run(job, call, [&](int threads) { return threads_for(job.n, threads); });
    double total = 0;
    for (double part : sums) total += part;
    return total;
}

void quant_random(uint64_t seed, uint64_t first, int64_t n, uint32_t* words) {
    kernels().random(seed, first, n, words);
}

} // namespace fastiter::quant
