// Sums the numbers of a block in shared memory. Without BARRIER, threads read data that others have not written yet.
KERNEL sum_of_block(const float* x, float* sum) {
    SHARED_MEMORY(float, parts);
    parts[threadIdx.x] = x[threadIdx.x];
#ifdef BARRIER
    block_barrier();
#endif
    if (threadIdx.x == 0) {
        float total = 0;
        for (uint32 i = 0; i < blockDim.x; ++i) total += parts[i];
        *sum = total;
    }
}

// One sum per block over the data that all blocks have written: correct only with a grid_barrier.
KERNEL rotate_blocks(float* x, float* y, uint32* arrived) {
    x[blockIdx.x * blockDim.x + threadIdx.x] = float(blockIdx.x);
    grid_barrier(arrived, gridDim.x);
    const uint32 other = (blockIdx.x + 1) % gridDim.x;
    y[blockIdx.x * blockDim.x + threadIdx.x] = load_shared_by_grid(x + other * blockDim.x + threadIdx.x);
}

// Half of the threads meet once more than the others.
KERNEL part_of_block() {
    if (threadIdx.x < blockDim.x / 2) block_barrier();
}

// Every thread takes the number of the next block from its packet once that has a tag: no barrier orders them.
KERNEL rotate_packets(Wide* packets, float* y) {
    if (threadIdx.x == 0) store_packet(packets + blockIdx.x, Wide{{blockIdx.x, 1}});
    Wide x;
    do x = load_packet(packets + (blockIdx.x + 1) % gridDim.x);
    while (x.x[1] == 0);
    y[blockIdx.x * blockDim.x + threadIdx.x] = float(x.x[0]);
}

// Writes one past the end.
KERNEL overrun(float* x, int64 count) { x[count] = 1; }

// c = a b by one warp: 16 x 16 times 16 x 8
template <class T> INLINE void multiply(const T* a, const T* b, float* c) {
    const int g = threadIdx.x / 4, q = threadIdx.x % 4;
    auto word = [](T low, T high) { return uint32(low.bits) | uint32(high.bits) << 16; };
    uint32 x[4], y[2];
    for (int i = 0; i < 4; ++i) {
        const T* from = a + (g + 8 * (i % 2)) * 16 + 2 * q + 8 * (i / 2);
        x[i] = word(from[0], from[1]);
    }
    for (int i = 0; i < 2; ++i) y[i] = word(b[(2 * q + 8 * i) * 8 + g], b[(2 * q + 8 * i + 1) * 8 + g]);
    float d[4] = {};
    mma_16x8x16(d, x, y, T{});
    for (int i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * 8 + 2 * q + i % 2] = d[i];
}
KERNEL multiply_bf16(const BFloat16* a, const BFloat16* b, float* c) { multiply(a, b, c); }
KERNEL multiply_f16(const Half* a, const Half* b, float* c) { multiply(a, b, c); }
