// The team of threads that run one kernel. A kernel is called once in every thread of its team.
#pragma once
#include <cstdint>

namespace fastiter {

struct Barrier {
    alignas(64) int32_t arrived = 0;
    alignas(64) int32_t phase = 0;
};

// Returns in all `size` threads once all have called it; writes before the call are visible after it.
void wait(Barrier& barrier, int size);

struct Team {
    int id = 0, size = 1;
    Barrier* barriers = nullptr; // `size` of them
};

} // namespace fastiter
