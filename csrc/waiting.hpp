// How a thread waits for others: it spins while they are about to come, then sleeps, so that whoever has to run gets its
// core. Times are in nanoseconds.
#pragma once
#include <cstdint>

namespace fastiter {

int64_t wall_clock();

// Waits until the word is no longer `value`. Bit 0 of the word, which `value` does not have, says that somebody sleeps
// until it changes.
void wait_while(int32_t& word, int32_t value);
void wake_all(int32_t& word); // to be called by whoever changed a word that had bit 0

// How long this thread has slept for others, and has been without a core, as far as it looked. Reading sets both to 0.
struct Delays {
    int64_t slept, without_core;
};
Delays take_delays();

// Counts the threads of a call that have not ended yet; one thread waits for them.
class Latch {
public:
    explicit Latch(int count) : word_(2 * count) {}
    bool is_slept_on() const { return __atomic_load_n(&word_, __ATOMIC_RELAXED) & 1; }
    void arrive();
    void wait();

private:
    alignas(64) int32_t word_; // twice the count, and bit 0
};

// Asks the scheduler, which takes 15 microseconds, unless this thread has asked less than `interval` ago.
void look_for_delay(int64_t interval);
constexpr int64_t kOftenEnough = 1'000'000; // for a thread that others have slept for

} // namespace fastiter
