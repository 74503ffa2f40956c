#include "core/threads/threads.hpp"
#include "core/load.hpp"
#include "core/threads/openmp.hpp"
#include "core/threads/pool.hpp"
#include "core/threads/stop.hpp"
#include "core/threads/waiting.hpp"
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <sched.h>
#include <thread>
#include <vector>

namespace fastiter {
namespace {

constexpr int64_t kLate = 200'000; // ns; a sleeping thread that is given a core starts sooner
constexpr int64_t kCallerChecksEvery = 20'000'000;

// One call of run_team, and its threads' observations of the machine's load
struct Call {
    Job job;
    const void* context;
    Stops stops;
    int threads;
    Barrier* barriers;
    Stop* stop;
    const OpenMP* omp;
    int64_t start;
    Latch running;                // all threads except the caller
    std::atomic<int> late{0};     // threads that were without a core for a while
    std::atomic<int64_t> lost{0}; // longest sleep of the threads waiting for them, or the caller's own delay
    std::atomic<bool> too_few{false};
};

void raise(std::atomic<int64_t>& maximum, int64_t value) {
    for (int64_t current = maximum.load(); current < value && !maximum.compare_exchange_weak(current, value);) continue;
}

void run_part(void* data, int id) {
    Call& call = *static_cast<Call*>(data);
    const int64_t late_start = wall_clock() - call.start;
    take_delays();
    const Team team{id, call.threads, call.barriers, call.stop};
    std::optional<ChecksWhileWaiting> checks;
    if (id == 0 && call.stops == Stops::on_request) checks.emplace(team);
    call.job(call.context, team);
    if (call.running.is_slept_on())
        check_for_delay(kOftenEnough);
    else if (id == 0)
        // no thread sleeps waiting for the caller: when it ends, the others have ended
        check_for_delay(kCallerChecksEvery);
    if (id == 0) call.running.wait();
    const Delays delays = take_delays();
    if (std::max(late_start, delays.without_core) > kLate) call.late.fetch_add(1, std::memory_order_relaxed);
    raise(call.lost, id == 0 ? std::max(delays.slept, delays.without_core) : delays.slept);
    if (id != 0) call.running.arrive();
}

// The runtime's own wait at the end of a team spins for milliseconds, so the caller enters it only when all others have
// arrived.
void in_openmp_thread(void* data) {
    Call& call = *static_cast<Call*>(data);
    if (call.omp->num_threads() == call.threads)
        run_part(data, call.omp->thread_num());
    else
        call.too_few.store(true);
}

bool run_openmp(Call& call) {
    if (call.omp->in_parallel()) return false;
    call.omp->parallel(in_openmp_thread, &call, unsigned(call.threads), 0);
    return !call.too_few.load();
}

Load load;
std::atomic<int> chosen{0};                        // 0: not set
int in_environment = 0, in_openmp_environment = 0; // 0: not set

int cores_of_process() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    int n = int(std::thread::hardware_concurrency());
    return n > 0 ? n : 1;
}

} // namespace

bool run_team(int threads, Job job, const void* context, Stops stops) {
    Stop stop;
    if (stops == Stops::never) stop.left = INT64_MAX;
    if (threads == 1) {
        Barrier barrier;
        job(context, Team{0, 1, &barrier, &stop});
        raise_if_stopped(stop);
        return true;
    }
    std::vector<Barrier> barriers(threads);
    Call call{job, context, stops, threads, barriers.data(), &stop, process_openmp(), wall_clock(), Latch(threads - 1)};
    if (!(call.omp ? run_openmp(call) : process_pool().run(threads, {run_part, &call}))) return false;
    const int64_t took = wall_clock() - call.start;
    load.record(threads, call.lost.load() > std::max(kLate, took / 4) ? call.late.load() : 0, took);
    raise_if_stopped(stop);
    return true;
}

int thread_count() {
    int n = chosen.load();
    if (n == 0) n = in_environment;
    if (n == 0) {
        const OpenMP* omp = process_openmp();
        n = omp ? omp->max_threads() : in_openmp_environment;
    }
    return std::min(n > 0 ? n : cores_of_process(), kMaxThreads);
}

bool read_thread_environment() {
    // OMP_NUM_THREADS may be a list, whose first number counts; the runtime validates it.
    const char* openmp = std::getenv("OMP_NUM_THREADS");
    in_openmp_environment = int(std::clamp(openmp ? std::strtol(openmp, nullptr, 10) : 0L, 0L, long(kMaxThreads)));
    const char* own = std::getenv("FASTITER_NUM_THREADS");
    if (!own) return true;
    char* end = nullptr;
    const long threads = std::strtol(own, &end, 10);
    if (end == own || *end || threads < 1 || threads > kMaxThreads) return false;
    in_environment = int(threads);
    return true;
}

int team_size() { return chosen.load(std::memory_order_relaxed) ? thread_count() : load.limit(thread_count()); }

void set_thread_count(int threads) { chosen.store(threads); }

const char* thread_pool() { return process_openmp() ? "OpenMP of the process" : "fastiter"; }

} // namespace fastiter
