#include "core/dispatch.hpp"
#include "core/levels.hpp"
#include <cstring>
#include <string>

namespace fastiter {
namespace {

struct Built {
    const char* name;
    Level level;
    bool (*runs_here)();
};

const Built levels[] = {
    {"baseline", Level::baseline, [] { return true; }},
#ifdef FASTITER_BUILT_V3
    {"v3", Level::v3, runs_here::v3},
#endif
#ifdef FASTITER_BUILT_V4
    {"v4", Level::v4, runs_here::v4},
#endif
#ifdef FASTITER_BUILT_V4_BF16
    {"v4_bf16", Level::v4_bf16, runs_here::v4_bf16},
#endif
#ifdef FASTITER_BUILT_V4_AMX
    {"v4_amx", Level::v4_amx, runs_here::v4_amx},
#endif
};

const Built* chosen = &levels[0];

std::string names(bool only_running) {
    std::string all;
    for (const Built& built : levels)
        if (!only_running || built.runs_here()) all += (all.empty() ? "" : " ") + std::string(built.name);
    return all;
}

} // namespace

Level level() { return chosen->level; }
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
    for (const Built& built : levels) {
        if (!best && std::strcmp(name, built.name) != 0) continue;
        if (built.runs_here())
            chosen = &built;
        else if (!best)
            return "this machine cannot run it";
        if (!best) return nullptr;
    }
    return best ? nullptr : "this build does not have it";
}

} // namespace fastiter
