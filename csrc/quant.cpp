#include "quant.hpp"
#include "dispatch.hpp"
#include "runner.hpp"
#include <algorithm>
#include <vector>

namespace fastiter {

QuantCounts run_quant(QuantJob job) {
    constexpr int64_t kLeast = 1 << 15; // elements that take longer than to wake a thread
    std::vector<QuantCounts> counts;
    auto call = [](const void* params, Team team) {
        kernels().quant->run(*static_cast<const QuantJob*>(params), team);
    };
    run(job, call, [&](int threads) {
        threads = int(std::clamp<int64_t>(job.n / kLeast, 1, threads));
        counts.assign(size_t(threads), {});
        job.counts = counts.data();
        return threads;
    });
    QuantCounts sum;
    for (const QuantCounts& c : counts) sum.nan += c.nan, sum.overflow += c.overflow, sum.underflow += c.underflow;
    return sum;
}

} // namespace fastiter
