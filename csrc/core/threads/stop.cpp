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

void use_stop_requests(StopRequests given) { requests = given; }

void look_for_stop(const Team& team) {
    Stop& stop = *team.stop;
    stop.left = kOperationsPerLook;
    const int64_t now = wall_clock();
    if (stop.next_look == 0) stop.next_look = now + kEvery;
    if (now < stop.next_look || stop.is_requested || !requests.is_pending) return;
    const bool is_pending = requests.is_pending();
    stop.next_look = wall_clock() + kEvery;
    if (!is_pending) return;
    __atomic_store_n(&stop.is_requested, 1, __ATOMIC_RELEASE);
    open_barriers(team);
}

LooksWhileWaiting::LooksWhileWaiting(const Team& team) : before_(std::exchange(waiting, &team)) {}
LooksWhileWaiting::~LooksWhileWaiting() { waiting = before_; }

bool looks_while_waiting() { return waiting != nullptr; }
void look_while_waiting() {
    if (waiting) look_for_stop(*waiting);
}

void raise_if_stopped(const Stop& stop) {
    if (stop.is_requested) requests.raise();
}

} // namespace fastiter
