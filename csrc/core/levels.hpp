// Detects the instruction sets that this machine supports.
#pragma once
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastiter::runs_here {

#ifdef __x86_64__
inline bool v3() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

inline bool v4() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512cd");
}

inline bool v4_bf16() { return v4() && __builtin_cpu_supports("avx512bf16"); }
#endif

#if defined(__x86_64__) && defined(__linux__)
// Linux grants a process AMX tile registers on request, if all signal stacks have room for them.
inline bool v4_amx() {
    constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;
    constexpr long kAskFor = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, and the requested feature
    unsigned a, b, c, d;
    return v4_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTiles) &&
           syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
}
#endif

} // namespace fastiter::runs_here
