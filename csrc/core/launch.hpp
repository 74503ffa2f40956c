// Launches any kernel: a team of threads, and a workspace per calling thread.
#pragma once
#include "core/memory.hpp"
#include "core/threads.hpp"

namespace fastiter {

// Memory that a thread keeps between calls; large blocks are returned for reuse by others.
class Workspace {
public:
    void* of(size_t bytes) {
        if (bytes > block_.size) {
            give_block(block_);
            block_ = {};
            block_ = take_block(bytes);
        }
        return block_.data;
    }
    void trim() {
        if (block_.size <= kKept) return;
        give_block(block_);
        block_ = {};
    }
    ~Workspace() { give_block(block_); }

private:
    static constexpr size_t kKept = 64 << 20;
    Block block_;
};

inline thread_local Workspace workspace;

// Calls prepare(threads), which returns how many of them it uses, then job; with one thread if no team is available.
template <class Params, class Prepare> void run(Params& params, Job job, Prepare prepare) {
    int threads = prepare(team_size());
    if (!run_team(threads, job, &params)) {
        prepare(1);
        run_team(1, job, &params);
    }
    workspace.trim();
}

} // namespace fastiter
