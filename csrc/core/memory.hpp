// A cache of large memory blocks for reuse. The page faults of a fresh block cost more than many a kernel that fills
// it: one fault per 4 KB, and 4 KB pages instead of 2 MB.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace fastiter {

struct Memory {
    void* data = nullptr;
    size_t size = 0;
};

// At least `bytes`, aligned to 64; from 128 KB on in 2 MB pages if the system provides them. Throws std::bad_alloc.
Memory take_memory(size_t bytes);
// Keeps the memory for reuse, up to a sixteenth of the machine's memory in idle blocks.
void give_memory(Memory memory);

// An uninitialised array in a block of the cache, which takes it back when the array is destroyed
template <class T = std::byte> class Block {
public:
    Block() = default;
    explicit Block(int64_t count)
        : memory_(take_memory(sizeof(T) * size_t(std::max<int64_t>(count, 1)))), count_(count) {}
    Block(Block&& other) noexcept
        : memory_(std::exchange(other.memory_, Memory{})), count_(std::exchange(other.count_, 0)) {}
    Block& operator=(Block&& other) noexcept {
        std::swap(memory_, other.memory_);
        std::swap(count_, other.count_);
        return *this;
    }
    ~Block() { give_memory(memory_); }

    T* data() const { return static_cast<T*>(memory_.data); }
    T& operator[](int64_t i) const { return data()[i]; }
    int64_t size() const { return count_; }

    // A pointer to at least `bytes` bytes; growing discards the contents.
    void* of(size_t bytes) {
        if (bytes > memory_.size) {
            *this = Block(); // release the old block before allocating the larger one
            *this = Block(int64_t((bytes + sizeof(T) - 1) / sizeof(T)));
        }
        return memory_.data;
    }

private:
    Memory memory_;
    int64_t count_ = 0;
};

void release_idle_blocks();
size_t idle_bytes();

} // namespace fastiter
