// The team of threads that run one kernel. A kernel is called once in every thread of its team.
#pragma once
#include <cstdint>

namespace fastiter {

struct Barrier {
    alignas(64) int32_t arrived = 0;
    alignas(64) int32_t phase = 0;
    int32_t is_open = 0; // nobody waits here any more: the team has to stop
};

// Returns in all `size` threads once all have called it; writes before the call are visible after it. After a request to
// stop it returns at once, and what the others should have written may be missing.
void wait(Barrier& barrier, int size);

// Operations of the caller between two looks at the clock: milliseconds
constexpr int64_t kOperationsPerLook = 1 << 24;

// The request that a team stops before its work is done, after which nobody reads its results
struct Stop {
    alignas(64) int64_t left = kOperationsPerLook; // of the caller, which alone looks for a request
    int64_t next_look = 0;                         // in ns; 0: not known yet
    alignas(64) int32_t is_requested = 0;
};

struct Team {
    int id = 0, size = 1;
    Barrier* barriers = nullptr; // `size` of them
    Stop* stop = nullptr;
};

// Asks whether the team has to stop, if some time has passed since the last question.
void look_for_stop(const Team& team);

// Whether the kernel has to return, as soon as it can. Each thread asks every now and then, and says how many operations
// (multiplications, elements of memory) it has done since it last asked.
inline __attribute__((always_inline)) bool has_to_stop(const Team& team, int64_t operations) {
    if (team.id == 0 && (team.stop->left -= operations) < 0) look_for_stop(team);
    return __atomic_load_n(&team.stop->is_requested, __ATOMIC_RELAXED) != 0;
}

} // namespace fastiter
