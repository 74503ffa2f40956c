// Temporarily uses fewer threads if other processes keep this machine's cores busy.
#pragma once
#include <atomic>
#include <cstdint>

namespace fastiter {

// A team waits for its last thread; a thread without a core of its own arrives one scheduler time slice, several
// milliseconds, late. Calls with late threads shrink the teams of later calls; after a pause that grows with every
// failure, the full number is tried again. Results do not depend on the number of threads.
class Load {
public:
    int limit(int threads); // number of threads that a call should use now
    void record(int threads, int late, int64_t took);

private:
    // All are heuristics: concurrent callers may overwrite each other's values.
    std::atomic<int> strikes_{0}, calm_{0}, limit_{0};
    std::atomic<int64_t> until_{0}; // time to try the full number again; 0: it is in use
};

} // namespace fastiter
