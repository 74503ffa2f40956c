#include "core/dispatch.hpp"
#include "core/levels.hpp"
#include <algorithm>
#include <cstring>
#include <iterator>

namespace fastiter {
namespace {

struct Built {
    const char* name;
    Level level;
    bool (*runs_here)();
};

const Built levels[] = {
#ifdef FASTITER_BUILT_BASELINE
    {"baseline", Level::baseline, [] { return true; }},
#endif
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

// The names that a build for this kind of processor may have
const char* const known[] = {
    "baseline",
#ifdef __x86_64__
    "v3",       "v4", "v4_bf16",
#ifdef __linux__
    "v4_amx",
#endif
#endif
};

const Built* chosen = nullptr;

std::string names(bool only_running) {
    std::string all;
    for (const Built& built : levels)
        if (!only_running || built.runs_here()) all += (all.empty() ? "" : " ") + std::string(built.name);
    return all;
}

} // namespace

Level level() { return chosen->level; }
const char* isa_chosen() { return chosen->name; }

bool fuses_multiply_add() {
#if defined(__aarch64__)
    return true;
#else
    return level() != Level::baseline;
#endif
}

const char* isa_built() {
    static const std::string text = names(false);
    return text.c_str();
}

const char* isa_available() {
    static const std::string text = names(true);
    return text.c_str();
}

std::string isa_choose(const char* name) {
    const auto has_name = [&](const char* other) { return std::strcmp(name, other) == 0; };
    const bool best = !name || !*name;
    const char* why = "there is no such instruction set";
    if (!best && std::any_of(std::begin(known), std::end(known), has_name))
        why = "this build does not have it, but wheels and builds with FASTITER_LEVELS=all do";
    for (const Built& built : levels) {
        if (!best && !has_name(built.name)) continue;
        if (built.runs_here())
            chosen = &built; // the last is the best
        else
            why = "this machine cannot run it";
    }
    if (chosen) return "";
    if (best) return "this machine runs none of the instruction sets of this build, '" + names(false) + "'";
    return "FASTITER_ISA must be one of '" + names(true) + "', got '" + name + "': " + why;
}

} // namespace fastiter
