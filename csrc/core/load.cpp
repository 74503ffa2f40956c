#include "core/load.hpp"
#include "core/threads/waiting.hpp"
#include <algorithm>

namespace fastiter {
namespace {

// A single late thread may be due to the operating system's housekeeping; two within a few calls indicate a busy
// machine.
constexpr int kBusy = 2, kMaxStrikes = 8, kCalmCalls = 8;
constexpr int64_t kLongestPause = 1'000'000'000;

} // namespace

int Load::limit(int threads) {
    const int64_t until = until_.load(std::memory_order_relaxed);
    if (until == 0) return threads;
    if (wall_clock() < until) return std::min(threads, limit_.load(std::memory_order_relaxed));
    until_.store(0, std::memory_order_relaxed);
    return threads;
}

void Load::record(int threads, int late, int64_t took) {
    const int strikes = strikes_.load(std::memory_order_relaxed);
    if (late == 0) {
        if (strikes == 0) return;
        const bool is_calm = calm_.fetch_add(1, std::memory_order_relaxed) + 1 >= kCalmCalls;
        if (!is_calm) return;
        calm_.store(0, std::memory_order_relaxed);
        strikes_.store(strikes - 1, std::memory_order_relaxed);
        return;
    }
    calm_.store(0, std::memory_order_relaxed);
    strikes_.store(std::min(strikes + 1, kMaxStrikes), std::memory_order_relaxed);
    if (strikes + 1 < kBusy) return;
    limit_.store(std::max(1, threads - late), std::memory_order_relaxed);
    const int64_t pause = std::min(took << (strikes + 1), std::max(kLongestPause, 16 * took));
    until_.store(wall_clock() + pause, std::memory_order_relaxed);
}

} // namespace fastiter
