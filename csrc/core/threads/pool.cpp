#include "core/threads/pool.hpp"
#include "core/threads/openmp.hpp"
#include <new>
#include <pthread.h>
#include <system_error>
#include <thread>

namespace fastiter {

bool Pool::start_workers(int count) {
    try {
        while (int(workers_.size()) < count) {
            auto worker = std::make_unique<Worker>();
            worker->id = int(workers_.size()) + 1;
            workers_.reserve(workers_.size() + 1);
            std::thread(&Pool::work, this, std::ref(*worker)).detach();
            workers_.push_back(std::move(worker));
        }
    } catch (const std::system_error&) {
        return false; // a limit on processes or memory: the caller continues alone
    }
    return true;
}

bool Pool::run(int threads, Part part) {
    std::unique_lock user(users_, std::try_to_lock);
    if (!user.owns_lock() || !start_workers(threads - 1)) return false;
    part_ = part;
    for (int i = 0; i < threads - 1; ++i) {
        int32_t& calls = workers_[size_t(i)]->calls;
        const int32_t before = __atomic_fetch_add(&calls, 2, __ATOMIC_ACQ_REL);
        if (before & 1) {
            __atomic_fetch_and(&calls, ~1, __ATOMIC_ACQ_REL);
            wake_all(calls);
        }
    }
    part.run(part.call, 0);
    return true;
}

void Pool::work(Worker& worker) {
    for (;;) {
        wait_while(worker.calls, worker.handled);
        worker.handled += 2;
        part_.run(part_.call, worker.id);
    }
}

namespace {

alignas(Pool) unsigned char memory[sizeof(Pool)];
Pool* pool = new (memory) Pool; // never destroyed: workers may run until the process ends
const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    forget_openmp();
    pool = new (memory) Pool;
});

} // namespace

Pool& process_pool() { return *pool; }

} // namespace fastiter
