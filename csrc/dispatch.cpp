#include "dispatch.hpp"
#include <cstring>
#include <string>

namespace fastiter {
namespace {

struct Level {
    const char* name;
    const Kernels* kernels;
    bool (*runs_here)();
};

const Level levels[] = {
    {"baseline", &baseline::kernels, [] { return true; }},
#ifdef FASTITER_BUILT_V3
    {"v3", &v3::kernels,
     [] {
         return bool(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"));
     }},
#endif
#ifdef FASTITER_BUILT_V4
    {"v4", &v4::kernels,
     [] {
         return bool(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512cd"));
     }},
#endif
};

const Level* chosen = &levels[0];

#ifdef FASTITER_BUILT_V4
// v4, with the products of bf16, in the recurrences and alone, on AVX512_BF16 where the processor has it
const Kernels& with_bf16_products() {
    static const Kernels kernels = [] {
        Kernels k = v4::kernels;
        if (__builtin_cpu_supports("avx512bf16")) k.gemm_bf16 = &v4_bf16::gemm_bf16, k.rnn_bf16 = &v4_bf16::rnn_bf16;
        return k;
    }();
    return kernels;
}
#endif

std::string names(bool only_running) {
    std::string all;
    for (const Level& level : levels)
        if (!only_running || level.runs_here()) all += (all.empty() ? "" : " ") + std::string(level.name);
    return all;
}

} // namespace

const Kernels& kernels() {
#ifdef FASTITER_BUILT_V4
    if (chosen->kernels == &v4::kernels) return with_bf16_products();
#endif
    return *chosen->kernels;
}
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
            chosen = &level;
        else if (!best)
            return "this machine cannot run it";
        if (!best) return nullptr;
    }
    return best ? nullptr : "this build does not have it";
}

} // namespace fastiter
