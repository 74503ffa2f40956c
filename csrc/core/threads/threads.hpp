// The only source of threads: torch's OpenMP pool if the process has an OpenMP runtime, otherwise our own.
#pragma once
#include "core/cpu/team.hpp"

namespace fastiter {

// Whether a request such as Ctrl-C ends a call before its work is done, with an exception
enum class Stops { never, on_request };

// Runs job(context, team) once in each of `threads` threads of one team, including the caller. Returns false, with
// nothing run, if that many threads are not available (inside another parallel region, under a thread limit): call
// again with 1.
using Job = void (*)(const void* context, Team team);
bool run_team(int threads, Job job, const void* context, Stops stops = Stops::never);

// The number of threads that a kernel may use: the number set by set_thread_count; else FASTITER_NUM_THREADS; else that
// of the OpenMP runtime in the process (torch's own setting); else OMP_NUM_THREADS; else the number of cores available
// to this process.
int thread_count();
void set_thread_count(int threads); // 0: back to the default
// Reads the environment variables. Returns false if FASTITER_NUM_THREADS is not a number from 1 to kMaxThreads.
bool read_thread_environment();

// The number of threads that a call should use now: the number set, whatever the machine's load; else thread_count(),
// or fewer while other processes keep the cores busy (see load.hpp).
int team_size();
const char* thread_pool(); // "OpenMP of the process" or "fastiter"

constexpr int kMaxThreads = 256;

} // namespace fastiter
