// The OpenMP runtime that another library, such as torch, has loaded into this process.
#pragma once

namespace fastiter {

struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;
    int (*max_threads)() = nullptr;
    int (*in_parallel)() = nullptr;
};

// Null if there is none, and in a forked child, which lacks its runtime's threads.
const OpenMP* process_openmp();
void forget_openmp(); // called in a forked child

} // namespace fastiter
