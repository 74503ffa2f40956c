#include "core/dispatch.hpp"
#include "core/levels.hpp"
#include <cstring>
#include <string>

namespace fastiter {
namespace {

struct Level {
    const char* name;
    Kernels (*kernels)();
    bool (*runs_here)();
};

#if defined(FASTITER_BUILT_V4_BF16) || defined(FASTITER_BUILT_V4_AMX)
Kernels with_products(const GemmKernels<bf16>& gemm, const RnnKernels<bf16>& rnn) {
    Kernels k = v4::kernels;
    k.gemm_bf16 = &gemm, k.rnn_bf16 = &rnn;
    return k;
}
#endif

const Level levels[] = {
    {"baseline", [] { return baseline::kernels; }, [] { return true; }},
#ifdef FASTITER_BUILT_V3
    {"v3", [] { return v3::kernels; }, runs_here::v3},
#endif
#ifdef FASTITER_BUILT_V4
    {"v4", [] { return v4::kernels; }, runs_here::v4},
#endif
#ifdef FASTITER_BUILT_V4_BF16
    {"v4_bf16", [] { return with_products(v4_bf16::gemm_bf16, v4_bf16::rnn_bf16); }, runs_here::v4_bf16},
#endif
#ifdef FASTITER_BUILT_V4_AMX
    {"v4_amx", [] { return with_products(v4_amx::gemm_bf16, v4_amx::rnn_bf16); }, runs_here::v4_amx},
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
