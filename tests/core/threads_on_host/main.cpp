// Teams of threads and their waits without Python, for the sanitizers. Exits with 0, or prints the fault and exits with 1.
#include "core/load.hpp"
#include "core/pool.hpp"
#include "core/threads.hpp"
#include "core/waiting.hpp"
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
    int rounds, sleeper;     // the thread so late in every fourth round that the others go to sleep
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
    std::strcmp(argv[1], "load") == 0 ? busy_machine() : teams();
}
