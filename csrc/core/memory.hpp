// A cache of large memory blocks for reuse. The page faults of a fresh block cost more than many a kernel that fills
// it: one fault per 4 KB, and 4 KB pages instead of 2 MB.
#pragma once
#include <cstddef>

namespace fastiter {

struct Block {
    void* data = nullptr;
    size_t size = 0;
};

// At least `bytes`, aligned to 64; from 128 KB on in 2 MB pages if the system provides them. Throws std::bad_alloc.
Block take_block(size_t bytes);
// Keeps the block for reuse, up to a sixteenth of the machine's memory in idle blocks.
void give_block(Block block);
void release_idle_blocks();
size_t idle_bytes();

} // namespace fastiter
