#include "core/memory.hpp"
#include "core/cpu/team.hpp"
#include <cstdlib>
#include <mutex>
#include <new>
#include <pthread.h>
#include <unistd.h>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastiter {
namespace {

constexpr size_t kHugePage = 2 << 20, kSmall = 128 << 10;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Never destroyed: blocks may be returned during process exit.
struct Idle {
    std::mutex mutex;
    std::vector<Memory> blocks; // oldest first
    size_t bytes = 0;
};
Idle& idle() {
    static Idle* all = new Idle;
    return *all;
}

// A forked child must not inherit the mutex locked by a thread that it does not have.
const int at_fork =
    pthread_atfork([] { idle().mutex.lock(); }, [] { idle().mutex.unlock(); }, [] { idle().mutex.unlock(); });

size_t limit() {
    static const size_t bytes = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE)) / 16;
    return bytes;
}

Memory fresh(size_t bytes) {
    const size_t page = bytes >= kSmall ? kHugePage : 64;
    Memory memory{nullptr, round_up(bytes, page)};
    memory.data = std::aligned_alloc(page, memory.size);
    if (!memory.data) throw std::bad_alloc();
#ifdef __linux__
    if (page == kHugePage) madvise(memory.data, memory.size, MADV_HUGEPAGE);
#endif
    return memory;
}

} // namespace

int64_t second_level_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
    static const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE); // asking again would leave a virtual machine each time
    if (bytes > 0) return bytes;
#endif
    return 1 << 20;
}

Memory take_memory(size_t bytes) {
    {
        Idle& all = idle();
        std::lock_guard lock(all.mutex);
        size_t best = all.blocks.size();
        for (size_t i = 0; i < all.blocks.size(); ++i) {
            const size_t size = all.blocks[i].size;
            const bool fits = size >= bytes && size <= round_up(bytes, kHugePage) + bytes / 4;
            if (fits && (best == all.blocks.size() || size < all.blocks[best].size)) best = i;
        }
        if (best < all.blocks.size()) {
            const Memory block = all.blocks[best];
            all.blocks.erase(all.blocks.begin() + std::ptrdiff_t(best));
            all.bytes -= block.size;
            return block;
        }
    }
    return fresh(bytes);
}

void give_memory(Memory memory) {
    if (!memory.data) return;
    Idle& all = idle();
    std::vector<Memory> freed;
    {
        std::lock_guard lock(all.mutex);
        all.blocks.push_back(memory);
        all.bytes += memory.size;
        while (all.bytes > limit()) {
            all.bytes -= all.blocks.front().size;
            freed.push_back(all.blocks.front());
            all.blocks.erase(all.blocks.begin());
        }
    }
    for (const Memory& old : freed) std::free(old.data);
}

void release_idle_blocks() {
    Idle& all = idle();
    std::lock_guard lock(all.mutex);
    for (const Memory& block : all.blocks) std::free(block.data);
    all.blocks.clear();
    all.bytes = 0;
}

size_t idle_bytes() {
    Idle& all = idle();
    std::lock_guard lock(all.mutex);
    return all.bytes;
}

} // namespace fastiter
