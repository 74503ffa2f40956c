#include "core/copy.hpp"
#include "core/launch.hpp"
#include <cstring>

namespace fastiter {

void run_copy(const void* from, size_t bytes, void* to) {
    constexpr int64_t kLeast = 1 << 20; // bytes that take longer to copy than a thread takes to wake up
    launch(
        [&](Team team) {
            const size_t begin = bytes * size_t(team.id) / size_t(team.size);
            const size_t end = bytes * size_t(team.id + 1) / size_t(team.size);
            std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, end - begin);
        },
        [&](int threads) { return threads_for(int64_t(bytes), kLeast, threads); });
}

} // namespace fastiter
