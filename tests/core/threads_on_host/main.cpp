// Teams of threads and their waits without Python, for sanitizers. Exits with 0, or prints the fault and exits with 1.
#include "core/load.hpp"
#include "core/threads/pool.hpp"
#include "core/threads/stop.hpp"
#include "core/threads/threads.hpp"
#include "core/threads/waiting.hpp"
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace fastiter;

namespace {

void require(bool is_right, const char* sentence) {
    if (is_right) return;
    std::fprintf(stderr, "%s\n", sentence);
    std::_Exit(1);
}

struct Rounds {
    int rounds, sleeper;     // the thread that is late in every fourth round, so that the others go to sleep
    std::vector<int>& slots; // one per thread
    std::atomic<int>& wrong;
};

// In every round each thread writes its slot and, once all have, reads its neighbour's.
void turn(const void* context, Team team) {
    const Rounds& r = *static_cast<const Rounds*>(context);
    for (int round = 1; round <= r.rounds; ++round) {
        if (team.id == r.sleeper && round % 4 == 0) usleep(500);
        r.slots[size_t(team.id)] = round;
        wait(team.barriers[0], team.size);
        if (r.slots[size_t((team.id + 1) % team.size)] != round) ++r.wrong;
        wait(team.barriers[0], team.size);
    }
}

void run_rounds(int threads, int rounds, int sleeper) {
    std::vector<int> slots(size_t(threads), 0);
    std::atomic<int> wrong{0};
    const Rounds r{rounds, sleeper, slots, wrong};
    if (!run_team(threads, turn, &r)) require(run_team(1, turn, &r), "one thread can always be had");
    require(wrong == 0, "a thread went past a barrier before the others came");
}

void teams() {
    for (int repeat = 0; repeat < 20; ++repeat)
        for (int threads : {2, 3, 7, 1, 20}) run_rounds(threads, 12, repeat % 3 - 1);
    // Only one caller at a time uses the pool; the others run alone.
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([] {
            for (int repeat = 0; repeat < 50; ++repeat) run_rounds(2 + repeat % 3, 5, -1);
        });
    for (std::thread& caller : callers) caller.join();
}

struct Stopped {};
std::atomic<bool> is_requested{false};

// Steps with one barrier each, as in a recurrence; `late`: the thread that others wait for. Only a request ends them.
struct Endless {
    int late;
    std::atomic<int>& ended;
};

void step_endlessly(const void* context, Team team) {
    const Endless& e = *static_cast<const Endless*>(context);
    if (team.id == 0) is_requested = true;
    do {
        if (team.id == e.late) usleep(5000);
        wait(team.barriers[0], team.size);
        if (team.size > 1) wait(team.barriers[team.size - 1], team.size);
    } while (!has_to_stop(team, kOperationsPerCheck / 2));
    ++e.ended;
}

// The caller waits for threads that check only the flag, so it must check for requests while it waits.
void run_without_caller(const void* context, Team team) {
    const Endless& e = *static_cast<const Endless*>(context);
    if (team.id == 0) is_requested = true;
    if (team.id > 0)
        while (!has_to_stop(team, 1)) usleep(1000);
    ++e.ended;
}

void stops() {
    use_stop_requests({[] { return is_requested.exchange(false); }, [] { throw Stopped(); }});
    auto run = [](int threads, Job job, int late, Stops stops) {
        std::atomic<int> ended{0};
        const Endless e{late, ended};
        bool is_stopped = false;
        try {
            run_team(threads, job, &e, stops);
        } catch (Stopped) {
            is_stopped = true;
        }
        require(is_stopped == (stops == Stops::on_request), "a call that was requested to stop throws, and no other");
        require(ended == threads, "all threads end before the call does");
    };
    for (int threads : {1, 5})
        for (int late : {0, threads - 1}) run(threads, step_endlessly, late, Stops::on_request);
    for (int threads : {2, 5}) run(threads, run_without_caller, -1, Stops::on_request);
    is_requested = true;
    auto short_job = [](const void* context, Team team) {
        for (int i = 0; i < 20; ++i)
            require(!has_to_stop(team, kOperationsPerCheck), "a call that must not stop is not asked to"),
                usleep(10'000);
        ++static_cast<const Endless*>(context)->ended;
    };
    run(2, short_job, -1, Stops::never);
    use_stop_requests({});
}

void busy_machine() {
    constexpr int64_t kCall = 20'000'000;
    Load load;
    for (int call = 0; call < 100; ++call) load.record(8, 0, kCall);
    require(load.limit(8) == 8, "a quiet machine gives all threads");
    for (int repeat = 0; repeat < 10; ++repeat) {
        load.record(8, 1, kCall);
        require(load.limit(8) == 8, "a single late thread changes nothing");
        for (int call = 0; call < 8; ++call) load.record(8, 0, kCall);
    }
    load.record(8, 1, kCall);
    load.record(8, 3, kCall);
    require(load.limit(8) == 5, "two calls with late threads: as many fewer");
    require(load.limit(4) == 4, "fewer than are left are not touched");
    load.record(5, 5, kCall);
    require(load.limit(8) == 1, "one thread is always left");
    usleep(400'000); // the pause after the third strike is 16 calls
    require(load.limit(8) == 8, "after a pause all are tried again");
    load.record(8, 1, kCall);
    require(load.limit(8) == 7, "and taken back at the first failure");
    usleep(700'000);
    require(load.limit(8) == 8, "the next pause is twice as long");
    for (int call = 0; call < 40; ++call) load.record(8, 0, kCall);
    load.record(8, 1, kCall);
    require(load.limit(8) == 8, "a machine that was quiet for long is trusted again");
}

} // namespace

int main(int, char** argv) {
    if (std::strcmp(argv[1], "openmp") == 0) {
        if (!dlopen("libgomp.so.1", RTLD_NOW)) return 77;
        require(std::strcmp(thread_pool(), "fastiter") != 0, "the runtime was not found");
    }
    if (std::strcmp(argv[1], "load") == 0) return busy_machine(), 0;
    teams();
    stops();
}
