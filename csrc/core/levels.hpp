// Detects the instruction sets that this machine supports.
#pragma once
#ifdef __x86_64__
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastiter::runs_here {

#ifdef __x86_64__
// Queries cpuid directly, as __builtin_cpu_supports does not work with some compilers' libraries (Zig's).
struct Features {
    unsigned ecx1 = 0, ebx7 = 0, edx7 = 0, eax7_1 = 0; // registers of cpuid's leaves 1, 7 and 7.1
    unsigned saved = 0;                                // registers that the system saves for a process (XCR0)

    Features() {
        unsigned a, b, c, d;
        if (__get_cpuid(1, &a, &b, &c, &d)) ecx1 = c;
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
            ebx7 = b;
            edx7 = d;
        }
        if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) eax7_1 = a;
        if (ecx1 >> 27 & 1) __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    }

    bool saves(unsigned registers) const { return (saved & registers) == registers; }
    bool has7(unsigned bits) const { return (ebx7 & bits) == bits; }
};

inline const Features& features() {
    static const Features detected;
    return detected;
}

inline bool v3() {
    constexpr unsigned kFma = 1u << 12, kAvx2 = 1u << 5, kBmi2 = 1u << 8, kYmm = 0x6;
    return features().saves(kYmm) && features().ecx1 & kFma && features().has7(kAvx2 | kBmi2);
}

inline bool v4() {
    constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kCd = 1u << 28, kBw = 1u << 30, kVl = 1u << 31;
#ifdef __APPLE__
    constexpr unsigned kZmm = 0x6; // macOS enables the other registers when a process first uses them
#else
    constexpr unsigned kZmm = 0xe6;
#endif
    return v3() && features().saves(kZmm) && features().has7(kF | kDq | kCd | kBw | kVl);
}

inline bool v4_bf16() { return v4() && features().eax7_1 >> 5 & 1; }
#endif

#if defined(__x86_64__) && defined(__linux__)
// Linux grants a process AMX tile registers on request, if all signal stacks have room for them.
inline bool v4_amx() {
    constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;
    constexpr long kAskFor = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, and the requested feature
    return v4_bf16() && features().edx7 & kBf16 && features().edx7 & kTiles &&
           syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
}
#endif

} // namespace fastiter::runs_here
