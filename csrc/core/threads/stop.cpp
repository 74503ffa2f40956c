#include "core/threads/stop.hpp"
#include "core/threads/waiting.hpp"
#include <utility>

namespace fastiter {
namespace {

constexpr int64_t kEvery = 100'000'000; // ns between two checks, each of which has to acquire Python's GIL

StopRequests requests;
thread_local const Team* waiting = nullptr;

// Lets all threads pass all barriers, now and later.
void open_barriers(const Team& team) {
    for (int i = 0; i < team.size; ++i) {
        Barrier& barrier = team.barriers[i];
        __atomic_store_n(&barrier.is_open, 1, __ATOMIC_RELEASE);
        if (__atomic_fetch_add(&barrier.phase, 2, __ATOMIC_ACQ_REL) & 1) wake_all(barrier.phase);
    }
}

} // namespace

void use_stop_requests(StopRequests requested) { requests = requested; }

void check_for_stop(const Team& team) {
    Stop& stop = *team.stop;
    stop.left = kOperationsPerCheck;
    const int64_t now = wall_clock();
    if (stop.next_check == 0) stop.next_check = now + kEvery;
    if (now < stop.next_check || stop.is_requested || !requests.is_pending) return;
    const bool is_pending = requests.is_pending();
    stop.next_check = wall_clock() + kEvery;
    if (!is_pending) return;
    __atomic_store_n(&stop.is_requested, 1, __ATOMIC_RELEASE);
    open_barriers(team);
}

ChecksWhileWaiting::ChecksWhileWaiting(const Team& team) : before_(std::exchange(waiting, &team)) {}
ChecksWhileWaiting::~ChecksWhileWaiting() { waiting = before_; }

bool checks_while_waiting() { return waiting != nullptr; }
void check_while_waiting() {
    if (waiting) check_for_stop(*waiting);
}

void raise_if_stopped(const Stop& stop) {
    if (stop.is_requested) requests.raise();
}

} // namespace fastiter
