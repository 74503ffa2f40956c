// The prefix of every .cu: number types, shared memory, tensor-core products, and barriers of grids and clusters,
// without any #include, so that NVRTC and nvcc both accept it. tests/gpu/host/shim.hpp is the counterpart for a CPU.
#pragma once

#define KERNEL extern "C" __global__ void
#define INLINE __device__ __forceinline__
// The dynamic shared memory of the block, which kernels partition into arrays
#define SHARED_MEMORY(T, name)                                     \
    extern __shared__ __align__(16) unsigned char shared_bytes_[]; \
    T* const name = reinterpret_cast<T*>(shared_bytes_)

using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;

// A 2-byte storage type; arithmetic is in float.
struct BFloat16 {
    unsigned short bits;
};
struct Half {
    unsigned short bits;
};

INLINE float to_float(float x) { return x; }
INLINE double to_float(double x) { return x; }
INLINE float to_float(BFloat16 x) { return __uint_as_float(uint32(x.bits) << 16); }
INLINE float to_float(Half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

// 2^x within two units in the last place; a result below 2^-126 is 0.
INLINE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

INLINE uint32 bits_of(BFloat16 x) { return x.bits; }
INLINE uint32 bits_of(Half x) { return x.bits; }
INLINE uint32 bits_of(float x) { return __float_as_uint(x); }
INLINE uint64 bits_of(double x) { return uint64(__double_as_longlong(x)); }

template <class T> struct Rounded; // Rounded<T>::of(x): round to nearest, ties to even
template <> struct Rounded<float> {
    static INLINE float of(float x) { return x; }
};
template <> struct Rounded<double> {
    static INLINE double of(double x) { return x; }
};
template <> struct Rounded<BFloat16> {
    static INLINE BFloat16 of(float x) {
        uint32 two; // the instruction for two numbers has a fourth of the latency of the one for one
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(0.0f), "f"(x));
        return {(unsigned short)(two)};
    }
};
template <> struct Rounded<Half> {
    static INLINE Half of(float x) {
        uint32 two;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(0.0f), "f"(x));
        return {(unsigned short)(two)};
    }
};

// 1 / x to within 1 ulp, for |x| from 2^-126 to 2^126
INLINE float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Keeps the compiler from computing x again wherever it is used.
INLINE void keep_in_register(int64& x) { asm volatile("" : "+l"(x)); }
// is ? x : y, without a branch: both are computed
INLINE float either(bool is, float x, float y) {
    float z;
    asm("{\n.reg .pred p;\nsetp.ne.u32 p, %1, 0;\nselp.f32 %0, %2, %3, p;\n}"
        : "=f"(z)
        : "r"(uint32(is)), "f"(x), "f"(y));
    return z;
}

// d += a b per warp: a is 16 x 16 row-major, b 16 x 8 column-major, d 16 x 8 in float. With lane = 4 g + q, a word
// contains two elements: a[0] = row g, columns 2q, 2q + 1; a[1] = row g + 8; a[2] = row g, columns 2q + 8, 2q + 9; a[3]
// = row g + 8, columns 2q + 8, 2q + 9; b[0] = rows 2q, 2q + 1 of column g; b[1] = 8 rows further; d[0], d[1] = row g,
// columns 2q and 2q + 1; d[2], d[3] = row g + 8.
INLINE void mma_16x8x16(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2], BFloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
INLINE void mma_16x8x16(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2], Half) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same in TF32: a is 16 x 8, b 8 x 8. a[0] = row g, column q; a[1] = row g + 8; a[2] = row g, column q + 4;
// a[3] = row g + 8, column q + 4; b[0] = row q of column g; b[1] = row q + 4. d is as above.
INLINE void mma_16x8x8_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    uint32 x[6];
    for (int i = 0; i < 4; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(x[i]) : "f"(a[i]));
    for (int i = 0; i < 2; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(x[4 + i]) : "f"(b[i]));
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(x[4]), "r"(x[5]));
}

// Shuffles across all lanes of a warp
template <class T> INLINE T from_lane(T x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
template <class T> INLINE T from_lane_xor(T x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
template <class T> INLINE T from_lane_below(T x, int by) { return __shfl_up_sync(0xffffffffu, x, by); }
template <class T> INLINE T from_lane_above(T x, int by) { return __shfl_down_sync(0xffffffffu, x, by); }
INLINE bool any_lane(bool x) { return __any_sync(0xffffffffu, x); }
INLINE void warp_barrier() { __syncwarp(); }
INLINE void block_barrier() { __syncthreads(); }

// A barrier of all blocks that share `arrived` (initially 0), split in two halves, each called by all threads of a
// block. Writes of a block before `grid_arrive` are visible to all blocks after `grid_wait`; work between the halves
// hides the latency. `target` is the number of arrivals to wait for: with n blocks, n the first time, 2n the second
// time, and so on. All blocks must be resident.
INLINE void grid_arrive(uint32* arrived) {
    block_barrier(); // the release of one thread is cumulative: it covers earlier writes of the others
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0)
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
}
INLINE void grid_wait(const uint32* arrived, uint32 target) {
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
        uint32 value;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(arrived) : "memory");
        while (int32(value - target) < 0);
    }
    block_barrier();
}
INLINE void grid_barrier(uint32* arrived, uint32 target) {
    grid_arrive(arrived);
    grid_wait(arrived, target);
}

// Clusters (from sm_90): blocks that are resident together and write to each other's shared memory. `rank` is the index
// of a block in its cluster.
INLINE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// An Arrival (mbarrier) in shared memory counts the bytes that are sent to its block. One thread initialises it before
// a cluster_barrier, and then declares the number of bytes of each phase; a phase ends when all of them have arrived,
// which may begin before the declaration. All threads may wait for the end of the current phase, with the parity
// 0, 1, 0, ...
using Arrival = uint64;
INLINE uint32 shared_address(const void* x) { return uint32(__cvta_generic_to_shared(x)); }
INLINE void begin(Arrival* to) {
    asm volatile(
        "mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(shared_address(to))
        : "memory");
}
INLINE void expect(Arrival* to, uint32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(to)), "r"(bytes)
                 : "memory");
}
INLINE void wait_for(Arrival* to, uint32 parity) {
    uint32 is_there;
    do
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(is_there)
                     : "r"(shared_address(to)), "r"(parity)
                     : "memory");
    while (!is_there);
}
// Writes x to the address `to` in the shared memory of block `rank`, and counts 8 bytes in that block's `arrival`.
INLINE void send(void* to, uint64 x, Arrival* arrival, int rank) {
    uint32 there, counter;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(to)), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(shared_address(arrival)), "r"(rank));
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(there), "l"(x),
                 "r"(counter)
                 : "memory");
}
// Reads data that another block wrote before a grid_barrier, bypassing this SM's L1 cache.
template <class T> INLINE T load_shared_by_grid(const T* x) { return __ldcg(x); }
template <> INLINE BFloat16 load_shared_by_grid(const BFloat16* x) {
    return BFloat16{__ldcg(reinterpret_cast<const unsigned short*>(x))};
}
template <> INLINE Half load_shared_by_grid(const Half* x) {
    return Half{__ldcg(reinterpret_cast<const unsigned short*>(x))};
}
// 16 bytes, loaded and stored by one instruction at addresses that are multiples of 16
struct alignas(16) Wide {
    uint64 x[2];
};
template <> INLINE Wide load_shared_by_grid(const Wide* x) {
    const ulonglong2 y = __ldcg(reinterpret_cast<const ulonglong2*>(x));
    return Wide{{y.x, y.y}};
}
// Loads and stores of 16 bytes that are one access in the memory model (type .b128), in no order with other accesses
INLINE void store_packet(Wide* to, Wide x) {
    asm volatile("{\n.reg .b128 x;\nmov.b128 x, {%1, %2};\nst.relaxed.gpu.global.b128 [%0], x;\n}" ::"l"(to),
                 "l"(x.x[0]), "l"(x.x[1])
                 : "memory");
}
INLINE Wide load_packet(const Wide* from) {
    Wide x;
    asm volatile("{\n.reg .b128 x;\nld.relaxed.gpu.global.b128 x, [%2];\nmov.b128 {%0, %1}, x;\n}"
                 : "=l"(x.x[0]), "=l"(x.x[1])
                 : "l"(from)
                 : "memory");
    return x;
}
template <class T> INLINE void add_atomically(T* x, T y) { atomicAdd(x, y); }
