#include "threads.hpp"
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <dlfcn.h>
#include <mutex>
#include <new>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <thread>
#include <vector>
#ifdef __linux__
#include <link.h>
#endif

namespace fastiter {
namespace {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// --- OpenMP of the process -------------------------------------------------------------------------------------------
// After a torch operation its OpenMP threads spin for a while; a second pool would fight them for the cores. GCC's runtime
// (libgomp) and LLVM's and Intel's (under its compatibility names) both have these entries.

struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;
    int (*max_threads)() = nullptr;
    int (*in_parallel)() = nullptr;
};

std::atomic<const OpenMP*> openmp{nullptr};
std::atomic<bool> openmp_unusable{false}; // in a forked child: its runtime's threads are gone

#ifdef __linux__
bool load_openmp(const char* path, OpenMP& omp) {
    void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return false;
    auto find = [&](auto& entry, const char* name) {
        void* symbol = dlsym(library, name);
        std::memcpy(&entry, &symbol, sizeof symbol);
        return symbol != nullptr;
    };
    // The handle is kept: the library must not be unloaded while its entries are used.
    return find(omp.parallel, "GOMP_parallel") && find(omp.thread_num, "omp_get_thread_num") &&
           find(omp.num_threads, "omp_get_num_threads") && find(omp.max_threads, "omp_get_max_threads") &&
           find(omp.in_parallel, "omp_in_parallel");
}

int look_for_openmp(dl_phdr_info* info, size_t, void* found) {
    const char* name = std::strrchr(info->dlpi_name, '/');
    name = name ? name + 1 : info->dlpi_name;
    for (const char* prefix : {"libgomp", "libiomp5", "libomp"})
        if (std::strncmp(name, prefix, std::strlen(prefix)) == 0) {
            static_cast<std::vector<std::string>*>(found)->push_back(info->dlpi_name);
            break;
        }
    return 0;
}

// torch may be imported after us, so the search is repeated whenever a library was loaded since the last one.
const OpenMP* process_openmp() {
    if (openmp_unusable.load(std::memory_order_relaxed)) return nullptr;
    if (const OpenMP* known = openmp.load(std::memory_order_acquire)) return known;
    static std::atomic<unsigned long long> searched{0};
    unsigned long long loads = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
            *static_cast<unsigned long long*>(out) = info->dlpi_adds;
            return 1;
        },
        &loads);
    if (searched.exchange(loads) == loads) return nullptr;
    std::vector<std::string> paths;
    dl_iterate_phdr(look_for_openmp, &paths);
    static OpenMP entries;
    static std::mutex mutex;
    std::lock_guard lock(mutex);
    for (const std::string& path : paths)
        if (!openmp.load() && load_openmp(path.c_str(), entries)) openmp.store(&entries, std::memory_order_release);
    return openmp.load();
}
#else
const OpenMP* process_openmp() { return nullptr; }
#endif

// --- a team of whatever threads --------------------------------------------------------------------------------------

struct Call {
    Job job;
    const void* context;
    int threads;
    Barrier* barriers;
    const OpenMP* omp;
    std::atomic<bool> too_few{false};
};

void in_openmp_thread(void* data) {
    Call& call = *static_cast<Call*>(data);
    if (call.omp->num_threads() != call.threads) {
        call.too_few.store(true);
        return;
    }
    call.job(call.context, Team{call.omp->thread_num(), call.threads, call.barriers});
}

// --- our own pool ----------------------------------------------------------------------------------------------------
// Workers sleep on a condition variable; right after a call they look for the next one for some microseconds first.

class Pool {
public:
    // Runs the call in the pool, or returns false when another thread is using it.
    bool run(Call& call) {
        std::unique_lock user(users_, std::try_to_lock);
        if (!user.owns_lock()) return false;
        while (int(workers_.size()) < call.threads - 1)
            workers_.emplace_back(&Pool::work, this, int(workers_.size()) + 1, calls_.load());
        {
            std::lock_guard lock(mutex_);
            call_ = &call;
            running_.store(int(workers_.size()), std::memory_order_relaxed);
            calls_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        call.job(call.context, Team{0, call.threads, call.barriers});
        for (int spins = 0; running_.load(std::memory_order_acquire) > 0; ++spins)
            spins < 4000 ? relax() : (void)sched_yield();
        return true;
    }

    ~Pool() {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
            calls_.fetch_add(1);
        }
        wake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

private:
    void work(int id, unsigned seen) {
        for (;;) {
            for (int spins = 0; spins < 4000 && calls_.load(std::memory_order_acquire) == seen; ++spins) relax();
            Call* call;
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return calls_.load() != seen; });
                if (stop_) return;
                seen = calls_.load();
                call = call_;
            }
            if (id < call->threads) call->job(call->context, Team{id, call->threads, call->barriers});
            running_.fetch_sub(1, std::memory_order_acq_rel);
        }
    }

    std::mutex users_, mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
    std::atomic<unsigned> calls_{0};
    std::atomic<int> running_{0};
    Call* call_ = nullptr;
    bool stop_ = false;
};

// A forked child has none of its parent's threads: it forgets both pools and starts one of its own when it needs it.
alignas(Pool) unsigned char pool_memory[sizeof(Pool)];
Pool* pool = new (pool_memory) Pool; // never destroyed: workers may run until the process ends
const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    openmp_unusable.store(true);
    pool = new (pool_memory) Pool;
});

std::atomic<int> chosen{0};

int cores_of_process() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    int n = int(std::thread::hardware_concurrency());
    return n > 0 ? n : 1;
}

} // namespace

bool run_team(int threads, Job job, const void* context) {
    if (threads == 1) {
        Barrier barrier;
        job(context, Team{0, 1, &barrier});
        return true;
    }
    std::vector<Barrier> barriers(threads);
    Call call{job, context, threads, barriers.data(), process_openmp()};
    if (!call.omp) return pool->run(call);
    if (call.omp->in_parallel()) return false;
    call.omp->parallel(in_openmp_thread, &call, unsigned(threads), 0);
    return !call.too_few.load();
}

int thread_count() {
    int n = chosen.load();
    if (n == 0) {
        const OpenMP* omp = process_openmp();
        n = omp ? omp->max_threads() : cores_of_process();
    }
    return n < kMaxThreads ? n : kMaxThreads;
}

void set_thread_count(int threads) { chosen.store(threads); }

const char* thread_pool() { return process_openmp() ? "OpenMP of the process" : "fastiter"; }

void wait(Barrier& barrier, int size) {
    if (size == 1) return;
    const int phase = __atomic_load_n(&barrier.phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&barrier.arrived, 1, __ATOMIC_ACQ_REL) == size) {
        __atomic_store_n(&barrier.arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier.phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    // Yielding after a while lets a machine with more threads than cores get on.
    for (int spins = 0; __atomic_load_n(&barrier.phase, __ATOMIC_ACQUIRE) == phase; ++spins)
        spins < 20000 ? relax() : (void)sched_yield();
}

} // namespace fastiter
