// The team of threads that run one kernel. A kernel is called once in every thread of its team.
#pragma once
#include <cstdint>

namespace fastiter {

struct Barrier {
    alignas(64) int32_t arrived = 0;
    alignas(64) int32_t phase = 0;
    int32_t is_open = 0; // threads no longer wait here: the team has to stop
};

// Returns in all `size` threads once all have called it; writes before the call are visible after it. After a request
// to stop it returns at once, and the other threads' writes may be missing.
void wait(Barrier& barrier, int size);

// Operations of the calling thread between two readings of the clock: takes milliseconds
constexpr int64_t kOperationsPerCheck = 1 << 24;

// A request that a team stops before its work is done; its results are then discarded.
struct Stop {
    alignas(64) int64_t left = kOperationsPerCheck; // used by the calling thread, the only one that polls for requests
    int64_t next_check = 0;                         // in ns; 0: not known yet
    alignas(64) int32_t is_requested = 0;
};

struct Team {
    int id = 0, size = 1;
    Barrier* barriers = nullptr; // `size` of them
    Stop* stop = nullptr;
};

// Bytes of the second-level cache of a core; 1 MB where the system does not tell
int64_t second_level_cache();

// Bounds [begin, end) of part `index` of `count` nearly equal parts
struct Range {
    int64_t begin, end;
};
inline __attribute__((always_inline)) Range share(int64_t total, int index, int count) {
    return {total * index / count, total * (index + 1) / count};
}
inline __attribute__((always_inline)) Range share(int64_t total, const Team& team) {
    return share(total, team.id, team.size);
}

// Checks whether the team has to stop, if enough time has passed since the last check.
void check_for_stop(const Team& team);

// Whether the kernel has to return as soon as it can. Each thread calls this now and then with the number of operations
// (multiplications, or elements read or written) it has done since its last call.
inline __attribute__((always_inline)) bool has_to_stop(const Team& team, int64_t operations) {
    if (team.id == 0 && (team.stop->left -= operations) < 0) check_for_stop(team);
    return __atomic_load_n(&team.stop->is_requested, __ATOMIC_RELAXED) != 0;
}

} // namespace fastiter
