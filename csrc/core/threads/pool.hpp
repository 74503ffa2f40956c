// The thread pool of a process without an OpenMP runtime.
#pragma once
#include "core/cpu/team.hpp"
#include "core/threads/waiting.hpp"
#include <memory>
#include <mutex>
#include <vector>

namespace fastiter {

// The work of one thread of a team
struct Part {
    void (*run)(void* call, int id);
    void* call;
};

class Pool {
public:
    // Runs part(id) for every id from 0 to threads - 1; the caller is thread 0, and its part returns after the others
    // have ended. Returns false, with nothing run, if another thread uses the pool, or if the system cannot create the
    // threads.
    bool run(int threads, Part part);

private:
    struct Worker {
        alignas(64) int32_t calls = 0; // twice the number of calls to join; bit 0: the worker sleeps
        int32_t handled = 0;
        int id = 0;
    };
    bool start_workers(int count);
    void work(Worker& worker);

    std::mutex users_;
    std::vector<std::unique_ptr<Worker>> workers_;
    Part part_{};
};

// The pool of this process; a forked child, which lacks its parent's threads, starts its own.
Pool& process_pool();

} // namespace fastiter
