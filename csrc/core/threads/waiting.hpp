// Waiting for other threads: spins while they are about to arrive, then sleeps to free the core for others. Times are
// in nanoseconds.
#pragma once
#include <cstdint>

namespace fastiter {

int64_t wall_clock();

// Waits until the word is no longer `value`. Bit 0 of the word, which is clear in `value`, means that a thread sleeps
// until it changes.
void wait_while(int32_t& word, int32_t value);
void wake_all(int32_t& word); // must be called after changing a word whose bit 0 was set

// Time that this thread has slept waiting for others, and time without a core, as of its last query. take_delays()
// resets both to 0.
struct Delays {
    int64_t slept, without_core;
};
Delays take_delays();

// Counts the threads of a call that have not ended; one thread waits for them.
class Latch {
public:
    explicit Latch(int count) : word_(2 * count) {}
    bool is_slept_on() const { return __atomic_load_n(&word_, __ATOMIC_RELAXED) & 1; }
    void arrive();
    void wait();

private:
    alignas(64) int32_t word_; // twice the count, plus bit 0
};

// Queries the scheduler, which takes 15 microseconds, unless this thread has queried it less than `interval` ago.
void check_for_delay(int64_t interval);
constexpr int64_t kOftenEnough = 1'000'000; // for a thread that others have waited for in their sleep

} // namespace fastiter
