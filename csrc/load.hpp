// Fewer threads for a while where other processes keep this machine's cores busy.
#pragma once
#include <atomic>
#include <cstdint>

namespace fastiter {

// A team waits for its last thread; one that has no core of its own comes a time slice of the scheduler later, several
// milliseconds. Calls that met one shrink the teams of those that follow; after a pause that grows with every failure
// the full number is tried again. Any number of threads computes the same bits.
class Load {
public:
    int limit(int threads); // how many of them a call is to use now
    void record(int threads, int late, int64_t took);

private:
    // All are guesses about the machine: threads that call at the same time may overwrite each other's.
    std::atomic<int> strikes_{0}, calm_{0}, limit_{0};
    std::atomic<int64_t> until_{0}; // when the full number is tried again; 0: it is in use
};

} // namespace fastiter
