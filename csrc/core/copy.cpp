#include "core/copy.hpp"
#include "core/launch.hpp"
#include <cstring>

namespace fastiter {

void run_copy(const void* from, size_t bytes, void* to) {
    constexpr int64_t kMinBytes = 1 << 20; // bytes that take longer to copy than a thread takes to wake up
    launch(
        [&](Team team) {
            const Range mine = share(int64_t(bytes), team);
            std::memcpy(static_cast<char*>(to) + mine.begin, static_cast<const char*>(from) + mine.begin,
                        size_t(mine.end - mine.begin));
        },
        [&](int threads) { return threads_for(int64_t(bytes), kMinBytes, threads); });
}

} // namespace fastiter
