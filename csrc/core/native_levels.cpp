// Prints the levels that a build for this machine alone has, the best and what it is a part of: CMake runs it for FASTITER_LEVELS=native.
#include "levels.hpp"
#include <cstdio>

int main() {
    const char* levels = "baseline";
#ifdef __x86_64__
    using namespace fastiter;
    if (runs_here::v3()) levels = "v3";
    if (runs_here::v4()) levels = "v4";
    if (runs_here::v4_bf16()) levels = "v4,v4_bf16";
#ifdef __linux__
    if (runs_here::v4_amx()) levels = "v4,v4_bf16,v4_amx";
#endif
#endif
    std::puts(levels);
}
