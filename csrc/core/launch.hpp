// Launches any kernel: a team of threads, and a workspace per calling thread.
#pragma once
#include "core/memory.hpp"
#include "core/threads/threads.hpp"
#include <algorithm>
#include <cstdint>

namespace fastiter {

// Memory that a thread keeps between calls
inline thread_local Block<> workspace;

// Calls prepare(threads), which returns how many of them it will use, then kernel(team) once in every thread of a team
// of that size; with one thread if no team is available.
template <class Kernel, class Prepare> void launch(Kernel kernel, Prepare prepare, Stops stops = Stops::never) {
    auto job = [](const void* context, Team team) { (*static_cast<const Kernel*>(context))(team); };
    if (!run_team(prepare(team_size()), job, &kernel, stops)) {
        prepare(1);
        run_team(1, job, &kernel, stops);
    }
    constexpr int64_t kMaxSaved = 64 << 20; // a larger one is released for others to reuse
    if (workspace.size() > kMaxSaved) workspace = Block();
}

// Runs kernel(params, team), a function from a table, after prepare has completed params for the number of threads.
// Throws after a request to stop, with incomplete results.
template <class Params, class Prepare>
void launch(void (*kernel)(const Params&, Team), Params& params, Prepare prepare) {
    launch([kernel, &params](Team team) { kernel(params, team); }, prepare, Stops::on_request);
}

// The number of threads that leaves each at least `smallest` units of work, about what a thread does in the time that
// starting a team takes
inline int threads_for(int64_t work, int64_t smallest, int threads) {
    return int(std::clamp<int64_t>(work / smallest, 1, threads));
}

} // namespace fastiter
