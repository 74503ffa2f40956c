// The threads of a process that has no OpenMP runtime.
#pragma once
#include "cpu/team.hpp"
#include "waiting.hpp"
#include <memory>
#include <mutex>
#include <vector>

namespace fastiter {

// What one thread of a team does
struct Part {
    void (*run)(void* call, int id);
    void* call;
};

class Pool {
public:
    // Runs part(id) for every id from 0 to threads - 1, the caller's own being 0, which returns when the others have ended.
    // Returns false, with nothing run, while another thread uses the pool, or where the system has no more threads.
    bool run(int threads, Part part);

private:
    struct Worker {
        alignas(64) int32_t calls = 0; // twice those that it was asked to join, and bit 0: it sleeps
        int32_t seen = 0;
        int id = 0;
    };
    bool start_workers(int count);
    void work(Worker& worker);

    std::mutex users_;
    std::vector<std::unique_ptr<Worker>> workers_;
    Part part_{};
};

// The pool of this process: a forked child has none of its parent's threads, and starts its own.
Pool& process_pool();

} // namespace fastiter
