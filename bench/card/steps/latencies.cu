// The parts of a step of a recurrence, measured in cycles: latencies, barriers of a block, a cluster and the grid, and the
// exchange between blocks. bench/card/steps/latencies.py compiles it with NVRTC and launches it.
//
// Each kernel writes the cycles of all its turns to cycles[0], and something that depends on its results to sink.

using uint32 = unsigned int;
using uint64 = unsigned long long;
#define KERNEL extern "C" __global__ void
#define CHAIN _Pragma("unroll 1") for (int i = 0; i < turns; ++i)

__device__ __forceinline__ long long now() {
    long long t;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(t)::"memory");
    return t;
}
__device__ __forceinline__ uint32 address(const void* x) { return uint32(__cvta_generic_to_shared(x)); }

// ---- latencies: each result is the operand of the next -----------------------------------------------------------------

// next[i] is the index of the element after i: the chain misses every cache that is smaller than it
KERNEL chase(const uint32* next, int turns, long long* cycles, uint32* sink) {
    uint32 at = 0;
    const long long start = now();
    CHAIN at = __ldcg(next + at);
    *cycles = now() - start, *sink = at;
}
KERNEL chase_shared(int turns, long long* cycles, uint32* sink) {
    __shared__ uint32 next[256];
    for (int i = int(threadIdx.x); i < 256; i += int(blockDim.x)) next[i] = 4 * ((i + 37) % 256) + address(next);
    __syncthreads();
    uint32 at = address(next);
    const long long start = now();
    CHAIN asm volatile("ld.shared.u32 %0, [%0];" : "+r"(at)::"memory");
    *cycles = now() - start, *sink = at;
}
KERNEL chase_shared_wide(int turns, long long* cycles, uint32* sink) {
    __shared__ uint4 next[64];
    for (int i = int(threadIdx.x); i < 64; i += int(blockDim.x)) next[i].x = 16 * ((i + 37) % 64) + address(next);
    __syncthreads();
    uint32 at = address(next), b, c, d;
    const long long start = now();
    CHAIN asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%0];" : "+r"(at), "=r"(b), "=r"(c), "=r"(d)::"memory");
    *cycles = now() - start, *sink = at + b + c + d;
}
KERNEL chain_function(int turns, long long* cycles, float* sink) {
    float x = 0.5f + float(threadIdx.x);
    const long long start = now();
    CHAIN asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    *cycles = now() - start, *sink = x;
}
KERNEL chain_tensor(int turns, long long* cycles, float* sink) {
    float d[4] = {0, 0, 0, 0};
    const uint32 a = 0x3f803f80u + threadIdx.x;
    const long long start = now();
    CHAIN asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, "
                       "{%0,%1,%2,%3};" : "+f"(d[0]),
                       "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a));
    *cycles = now() - start, *sink = d[0];
}
KERNEL chain_shuffle(int turns, long long* cycles, uint32* sink) {
    uint32 x = threadIdx.x;
    const long long start = now();
    CHAIN x = __shfl_xor_sync(0xffffffffu, x, 1);
    *cycles = now() - start, *sink = x;
}
KERNEL chain_atomic(uint32* at, int turns, long long* cycles, uint32* sink) {
    uint32 x = 0;
    const long long start = now();
    CHAIN x = atomicAdd(at + (x & 0), 1u);
    *cycles = now() - start, *sink = x;
}
KERNEL chain_fence(uint32* at, int turns, long long* cycles) {
    const long long start = now();
    CHAIN {
        at[threadIdx.x] = uint32(i);
        __threadfence();
    }
    *cycles = now() - start;
}

// ---- barriers ----------------------------------------------------------------------------------------------------------

KERNEL barrier_block(int turns, long long* cycles) {
    const long long start = now();
    CHAIN __syncthreads();
    if (threadIdx.x == 0) *cycles = now() - start;
}
__device__ __forceinline__ void wait_for(const uint32* arrived, uint32 target) {
    uint32 value;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(arrived) : "memory");
    while (int(value - target) < 0);
}
// kind 0: a fence and an atomic addition; 1: a releasing reduction; 2: a flag for each block, polled by as many threads
KERNEL barrier_grid(uint32* arrived, int kind, int turns, long long* cycles, float* data) {
    const uint32 blocks = gridDim.x;
    const long long start = now();
    CHAIN {
        data[((i & 1) * blocks + blockIdx.x) * blockDim.x + threadIdx.x] = float(i); // must become visible
        __syncthreads();
        if (kind == 2) {
            if (threadIdx.x == 0)
                asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(arrived + blockIdx.x), "r"(i + 1) : "memory");
            if (threadIdx.x < blocks) wait_for(arrived + threadIdx.x, uint32(i + 1));
        } else if (threadIdx.x == 0) {
            if (kind == 0) {
                __threadfence();
                atomicAdd(arrived, 1u);
            } else {
                asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
            }
            wait_for(arrived, uint32(i + 1) * blocks);
        }
        __syncthreads();
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = now() - start;
}

// ---- clusters: sm_90 and later -----------------------------------------------------------------------------------------

#if __CUDA_ARCH__ >= 900
#define MEET asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory")
// Every block writes its part of `bytes` bytes to the shared memory of all blocks of the cluster, 8 bytes per store.
template <int size> __device__ __forceinline__ void exchange(int bytes, int turns, long long* cycles) {
    extern __shared__ __align__(16) unsigned char memory[];
    uint32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    const int part = bytes / size;
    const uint32 mine = address(memory) + rank * part;
    MEET;
    const long long start = now();
    CHAIN {
        for (int at = 8 * int(threadIdx.x); at < part; at += 8 * int(blockDim.x))
            for (int other = 0; other < size; ++other) {
                uint32 to;
                asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(mine + (i & 1) * bytes + at), "r"(other));
                asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(to), "l"(uint64(i)) : "memory");
            }
        MEET;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = now() - start;
    MEET;
}
#define CLUSTER(size)                                                                             \
    KERNEL __cluster_dims__(size, 1, 1) cluster_##size(int bytes, int turns, long long* cycles) { \
        exchange<size>(bytes, turns, cycles);                                                     \
    }
CLUSTER(2)
CLUSTER(4)
CLUSTER(8)

// Ping-pong between two blocks: one sends a number, the other waits for it and sends it back; a turn is a round trip.
KERNEL __cluster_dims__(2, 1, 1) send_and_return(int turns, long long* cycles) {
    __shared__ __align__(16) uint64 memory[2]; // the number, and the counter of bytes
    const uint32 number = address(memory), counter = address(memory + 1), rank = blockIdx.x;
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(counter)
                 : "memory");
    uint32 there, its_counter;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(number), "r"(1 - rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(its_counter) : "r"(counter), "r"(1 - rank));
    MEET;
    const long long start = now();
    CHAIN {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 8;" ::"r"(counter) : "memory");
        for (int way = 0; way < 2; ++way) {
            if (way == int(rank))
                asm volatile(
                    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(there),
                    "l"(uint64(i)), "r"(its_counter)
                    : "memory");
            else
                for (uint32 is_there = 0; !is_there;)
                    asm volatile(
                        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
                        "selp.u32 %0, 1, 0, p;\n}"
                        : "=r"(is_there)
                        : "r"(counter), "r"(i & 1)
                        : "memory");
        }
    }
    if (rank == 0) *cycles = now() - start;
    MEET;
}
#endif

// ---- after a barrier: a block copies the exchanged vectors from L2 to its shared memory ----------------------------------

template <class Word> __device__ __forceinline__ void copy(const Word* from, int bytes, int turns, long long* cycles) {
    extern __shared__ __align__(16) unsigned char memory[];
    Word* to = reinterpret_cast<Word*>(memory);
    const int words = bytes / int(sizeof(Word));
    const long long start = now();
    CHAIN {
#pragma unroll 8
        for (int k = int(threadIdx.x); k < words; k += int(blockDim.x)) to[k] = __ldcg(from + k);
        __syncthreads();
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = now() - start;
}
KERNEL copy_8(const uint64* from, int bytes, int turns, long long* cycles) { copy(from, bytes, turns, cycles); }
KERNEL copy_16(const uint4* from, int bytes, int turns, long long* cycles) { copy(from, bytes, turns, cycles); }
