// Large blocks of memory that are used again. The pages of a fresh block cost more than many a kernel that fills it: a fault
// for each 4 KB, and 4 KB pages where 2 MB would do.
#pragma once
#include <cstddef>

namespace fastiter {

struct Block {
    void* data = nullptr;
    size_t size = 0;
};

// At least `bytes`, aligned to 64; from 128 KB on in pages of 2 MB where the system gives them. Throws std::bad_alloc.
Block take_block(size_t bytes);
// Keeps the block for the next taker, as long as no more than a sixteenth of the machine's memory lies idle.
void give_block(Block block);
void release_idle_blocks();
size_t idle_bytes();

} // namespace fastiter
