#include "core/copy.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <cstring>

namespace fastiter {

void run_copy(const void* from, size_t bytes, void* to) {
    struct Params {
        const char* from;
        size_t bytes;
        char* to;
    } p{static_cast<const char*>(from), bytes, static_cast<char*>(to)};
    auto job = [](const void* params, Team team) {
        const Params& p = *static_cast<const Params*>(params);
        const size_t begin = p.bytes * size_t(team.id) / size_t(team.size);
        const size_t end = p.bytes * size_t(team.id + 1) / size_t(team.size);
        std::memcpy(p.to + begin, p.from + begin, end - begin);
    };
    constexpr size_t kLeast = 1 << 20; // bytes that take longer to copy than waking a thread
    run(p, job, [&](int threads) { return int(std::clamp<size_t>(p.bytes / kLeast, 1, size_t(threads))); });
}

} // namespace fastiter
