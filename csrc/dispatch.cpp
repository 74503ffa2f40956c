#include "dispatch.hpp"
#include <cstring>
#include <string>
#ifdef FASTITER_BUILT_V4_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastiter {
namespace {

struct Level {
    const char* name;
    Kernels (*kernels)();
    bool (*runs_here)();
};

#ifdef FASTITER_BUILT_V4
Kernels with_products(const GemmKernels<bf16>& gemm, const RnnKernels<bf16>& rnn) {
    Kernels k = v4::kernels;
    k.gemm_bf16 = &gemm, k.rnn_bf16 = &rnn;
    return k;
}

bool has_v4() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512cd");
}

bool has_v4_bf16() { return has_v4() && __builtin_cpu_supports("avx512bf16"); }
#endif

#ifdef FASTITER_BUILT_V4_AMX
// Linux gives a process tile registers when it asks for them, if there is room for them wherever signals are handled.
bool has_v4_amx() {
    constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;
    constexpr long kAskFor = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, and the number of what is asked for
    unsigned a, b, c, d;
    return has_v4_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTiles) &&
           syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
}
#endif

const Level levels[] = {
    {"baseline", [] { return baseline::kernels; }, [] { return true; }},
#ifdef FASTITER_BUILT_V3
    {"v3", [] { return v3::kernels; },
     [] {
         return bool(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"));
     }},
#endif
#ifdef FASTITER_BUILT_V4
    {"v4", [] { return v4::kernels; }, has_v4},
    {"v4_bf16", [] { return with_products(v4_bf16::gemm_bf16, v4_bf16::rnn_bf16); }, has_v4_bf16},
#endif
#ifdef FASTITER_BUILT_V4_AMX
    {"v4_amx", [] { return with_products(v4_amx::gemm_bf16, v4_amx::rnn_bf16); }, has_v4_amx},
#endif
};

const Level* chosen = &levels[0];
Kernels kernels_of_chosen = baseline::kernels;

void choose(const Level& level) {
    chosen = &level;
    kernels_of_chosen = level.kernels();
}

std::string names(bool only_running) {
    std::string all;
    for (const Level& level : levels)
        if (!only_running || level.runs_here()) all += (all.empty() ? "" : " ") + std::string(level.name);
    return all;
}

} // namespace

const Kernels& kernels() { return kernels_of_chosen; }
const char* isa_chosen() { return chosen->name; }

const char* isa_built() {
    static const std::string text = names(false);
    return text.c_str();
}

const char* isa_available() {
    static const std::string text = names(true);
    return text.c_str();
}

const char* isa_choose(const char* name) {
    const bool best = !name || !*name;
    for (const Level& level : levels) {
        if (!best && std::strcmp(name, level.name) != 0) continue;
        if (level.runs_here())
            choose(level);
        else if (!best)
            return "this machine cannot run it";
        if (!best) return nullptr;
    }
    return best ? nullptr : "this build does not have it";
}

} // namespace fastiter
