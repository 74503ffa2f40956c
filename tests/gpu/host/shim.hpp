// kernels/common/device.cuh for a CPU: one thread per CUDA thread, std::barrier as barrier, and an array through which
// the lanes of a warp exchange values. Shared memory starts as NaN in every block.
#pragma once
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define KERNEL extern "C" void
#define INLINE inline
#define SHARED_MEMORY(T, name) T* const name = reinterpret_cast<T*>(host::self.block->shared.get())

using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace host {
struct Warp {
    explicit Warp(int lanes) : meet(lanes), lanes(lanes) {}
    std::barrier<> meet;
    int lanes;
    uint64 word[32][4]; // per lane
};
struct Cluster;
struct Block {
    Block(unsigned threads, size_t bytes)
        : meet(threads), shared(static_cast<unsigned char*>(std::aligned_alloc(128, (bytes + 128) / 128 * 128)), std::free),
          bytes(bytes) {
        for (unsigned at = 0; at < threads; at += 32) warps.push_back(std::make_unique<Warp>(int(std::min(32u, threads - at))));
    }
    std::barrier<> meet;
    std::unique_ptr<unsigned char, void (*)(void*)> shared;
    size_t bytes;
    std::vector<std::unique_ptr<Warp>> warps;
    Cluster* cluster = nullptr;
};
struct Cluster {
    explicit Cluster(unsigned threads) : meet(threads) {}
    std::barrier<> meet;
    std::vector<Block*> blocks;
};
struct Self {
    Block* block = nullptr;
    Warp* warp = nullptr;
    int lane = 0;
};
inline thread_local Self self;
} // namespace host

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace host {
// Runs kernel(args...) for every thread of a grid along x, whose blocks form clusters of `size`.
template <class F> void run_clusters(dim3 grid, dim3 block, size_t shared, unsigned size, F kernel) {
    for (unsigned first = 0; first < grid.x; first += size) {
        Cluster cluster(size * block.x);
        std::vector<std::unique_ptr<Block>> blocks;
        for (unsigned rank = 0; rank < size; ++rank) {
            blocks.push_back(std::make_unique<Block>(block.x, shared));
            std::memset(blocks.back()->shared.get(), 0xff, shared);
            blocks.back()->cluster = &cluster;
            cluster.blocks.push_back(blocks.back().get());
        }
        std::vector<std::thread> running;
        for (unsigned t = 0; t < block.x; ++t)
            for (unsigned rank = 0; rank < size; ++rank)
                running.emplace_back([&, t, rank] {
                    Block& own = *blocks[rank];
                    threadIdx = {t, 0, 0}, blockIdx = {first + rank, 0, 0};
                    self = {&own, own.warps[t / 32].get(), int(t % 32)};
                    kernel();
                });
        for (auto& thread : running) thread.join();
    }
}

// Runs kernel(args...) for every thread of the grid; `together`: all blocks at once, else one after the other; with
// several blocks per cluster: one cluster after the other.
template <class F> void run(dim3 grid, dim3 block, size_t shared, bool together, unsigned size, F kernel) {
    gridDim = grid, blockDim = block;
    if (size > 1) return run_clusters(grid, block, shared, size, kernel);
    const unsigned threads = block.x * block.y * block.z, blocks = grid.x * grid.y * grid.z;
    std::vector<std::unique_ptr<Block>> resident;
    for (unsigned b = 0; b < (together ? blocks : 1); ++b) {
        resident.push_back(std::make_unique<Block>(threads, shared));
        std::memset(resident.back()->shared.get(), 0xff, shared);
    }
    auto one = [&](Block& own, unsigned t, unsigned b) {
        threadIdx = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        self = {&own, own.warps[t / 32].get(), int(t % 32)};
        kernel();
    };
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; ++t)
        if (together)
            for (unsigned b = 0; b < blocks; ++b) running.emplace_back([&, t, b] { one(*resident[b], t, b); });
        else
            running.emplace_back([&, t] {
                Block& own = *resident[0];
                for (unsigned b = 0; b < blocks; ++b) {
                    one(own, t, b);
                    own.meet.arrive_and_wait();
                    if (t == 0) std::memset(own.shared.get(), 0xff, own.bytes);
                    own.meet.arrive_and_wait();
                }
            });
    for (auto& thread : running) thread.join();
}

template <class T> T exchange(T x, int source) {
    static_assert(sizeof(T) <= 32);
    Warp& warp = *self.warp;
    std::memcpy(warp.word[self.lane], &x, sizeof(T));
    warp.meet.arrive_and_wait();
    if (source >= 0 && source < warp.lanes) std::memcpy(&x, warp.word[source], sizeof(T));
    warp.meet.arrive_and_wait();
    return x;
}

// Calls a kernel with the addresses of its arguments, as the driver's launch does.
template <class... A, size_t... I> void call(void (*kernel)(A...), void** at, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(at[I])...);
}
template <class... A> void call(void (*kernel)(A...), void** at) { call(kernel, at, std::index_sequence_for<A...>()); }
template <class... A> size_t count(void (*)(A...)) { return sizeof...(A); }
} // namespace host

inline float __uint_as_float(uint32 x) { float y; std::memcpy(&y, &x, 4); return y; }
inline uint32 __float_as_uint(float x) { uint32 y; std::memcpy(&y, &x, 4); return y; }
inline int32 __float_as_int(float x) { return int32(__float_as_uint(x)); }
inline float __int_as_float(int32 x) { return __uint_as_float(uint32(x)); }
inline double __longlong_as_double(int64 x) { double y; std::memcpy(&y, &x, 8); return y; }
inline int64 __double_as_longlong(double x) { int64 y; std::memcpy(&y, &x, 8); return y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
template <class T> T __ldcg(const T* x) { return *x; }
template <class T> T __ldg(const T* x) { return *x; }
template <class T> T min(T x, T y) { return y < x ? y : x; }
template <class T> T max(T x, T y) { return x < y ? y : x; }
using std::exp, std::log, std::log1p, std::tanh, std::fma, std::fmax, std::fmin, std::isnan, std::isinf, std::isfinite, std::abs, std::sqrt;

struct BFloat16 {
    unsigned short bits;
};
struct Half {
    unsigned short bits;
};
inline float to_float(float x) { return x; }
inline double to_float(double x) { return x; }
inline float to_float(BFloat16 x) { return __uint_as_float(uint32(x.bits) << 16); }
inline float to_float(Half x) { _Float16 y; std::memcpy(&y, &x, 2); return float(y); }

inline uint32 bits_of(BFloat16 x) { return x.bits; }
inline uint32 bits_of(Half x) { return x.bits; }
inline uint32 bits_of(float x) { return __float_as_uint(x); }
inline uint64 bits_of(double x) { return uint64(__double_as_longlong(x)); }

template <class T> struct Rounded;
template <> struct Rounded<float> {
    static float of(float x) { return x; }
};
template <> struct Rounded<double> {
    static double of(double x) { return x; }
};
template <> struct Rounded<BFloat16> {
    static BFloat16 of(float x) {
        const uint32 bits = __float_as_uint(x);
        if (x != x) return {0x7fff};
        return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
};
template <> struct Rounded<Half> {
    static Half of(float x) { const _Float16 y = _Float16(x); Half z; std::memcpy(&z, &y, 2); return z; }
};

namespace host {
struct Fragments {
    uint32 a[4], b[2];
};
// d += a b, every lane from the fragments of all
template <int Inner, class F> void multiply(float (&d)[4], const Fragments& own, F element) {
    Warp& warp = *self.warp;
    std::memcpy(warp.word[self.lane], &own, sizeof own);
    warp.meet.arrive_and_wait();
    Fragments all[32];
    for (int lane = 0; lane < 32; ++lane) std::memcpy(&all[lane], warp.word[lane], sizeof own);
    const int g = self.lane / 4, q = self.lane % 4;
    for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i / 2), column = 2 * q + i % 2;
        float sum = d[i];
        for (int k = 0; k < Inner; ++k) {
            const auto [x, y] = element(all, row, column, k);
            sum += x * y;
        }
        d[i] = sum;
    }
    warp.meet.arrive_and_wait();
}
template <class T> float half_word(uint32 word, int which) {
    return to_float(T{(unsigned short)(word >> (16 * which))});
}
template <class T> void multiply_16x8x16(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2]) {
    multiply<16>(d, {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, [](const Fragments* all, int row, int column, int k) {
        const float x = half_word<T>(all[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)], k % 2);
        const float y = half_word<T>(all[column * 4 + k % 8 / 2].b[k / 8], k % 2);
        return std::pair(x, y);
    });
}
inline float tf32(float x) { // to nearest, ties away from zero
    return std::isfinite(x) ? __uint_as_float((__float_as_uint(x) + 0x1000) & ~0x1fffu) : x;
}
} // namespace host

inline void mma_16x8x16(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2], BFloat16) {
    host::multiply_16x8x16<BFloat16>(d, a, b);
}
inline void mma_16x8x16(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2], Half) {
    host::multiply_16x8x16<Half>(d, a, b);
}
inline void mma_16x8x8_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
    host::Fragments own;
    for (int i = 0; i < 4; ++i) own.a[i] = __float_as_uint(host::tf32(a[i]));
    for (int i = 0; i < 2; ++i) own.b[i] = __float_as_uint(host::tf32(b[i]));
    host::multiply<8>(d, own, [](const host::Fragments* all, int row, int column, int k) {
        return std::pair(__uint_as_float(all[row % 8 * 4 + k % 4].a[row / 8 + 2 * (k / 4)]),
                         __uint_as_float(all[column * 4 + k % 4].b[k / 4]));
    });
}

template <class T> T from_lane(T x, int lane) { return host::exchange(x, lane); }
template <class T> T from_lane_xor(T x, int mask) { return host::exchange(x, host::self.lane ^ mask); }
template <class T> T from_lane_below(T x, int by) { return host::exchange(x, host::self.lane - by); }
template <class T> T from_lane_above(T x, int by) { return host::exchange(x, host::self.lane + by); }
inline bool any_lane(bool x) {
    bool any = false;
    for (int lane = 0; lane < host::self.warp->lanes; ++lane) any |= from_lane(x, lane);
    return any;
}
inline void warp_barrier() { host::self.warp->meet.arrive_and_wait(); }
inline void block_barrier() { host::self.block->meet.arrive_and_wait(); }
inline void grid_arrive(uint32* arrived) {
    block_barrier();
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0)
        std::atomic_ref<uint32>(*arrived).fetch_add(1, std::memory_order_release);
}
inline void grid_wait(uint32* arrived, uint32 target) {
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0)
        while (int32(std::atomic_ref<uint32>(*arrived).load(std::memory_order_acquire) - target) < 0)
            std::this_thread::yield();
    block_barrier();
}
inline void grid_barrier(uint32* arrived, uint32 target) {
    grid_arrive(arrived);
    grid_wait(arrived, target);
}

// The upper half of an Arrival counts phases; the lower half is the number of bytes still missing in its phase. Until
// `expect` adds their number, it is kMissing minus the bytes that came early.
inline void cluster_barrier() { host::self.block->cluster->meet.arrive_and_wait(); }
using Arrival = uint64;
namespace host {
constexpr uint64 kMissing = uint64(1) << 31, kPhase = uint64(1) << 32;
inline void change(Arrival* to, uint64 by) {
    std::atomic_ref<uint64> counter(*to);
    const uint64 now = counter.fetch_add(by, std::memory_order_acq_rel) + by;
    if (now % kPhase == 0) counter.fetch_add(kPhase + kMissing, std::memory_order_acq_rel);
}
} // namespace host
inline void begin(Arrival* to) { std::atomic_ref<uint64>(*to).store(host::kMissing); }
inline void expect(Arrival* to, uint32 bytes) { host::change(to, bytes - host::kMissing); }
inline void wait_for(Arrival* to, uint32 parity) {
    while ((std::atomic_ref<uint64>(*to).load(std::memory_order_acquire) / host::kPhase) % 2 == parity)
        std::this_thread::yield();
}
template <class T> T* in_block(T* x, int rank) { // where x is in the shared memory of another block of the cluster
    host::Block& own = *host::self.block;
    const auto at = reinterpret_cast<unsigned char*>(x) - own.shared.get();
    if (at < 0 || size_t(at) >= own.bytes || rank < 0 || size_t(rank) >= own.cluster->blocks.size()) std::abort();
    return reinterpret_cast<T*>(own.cluster->blocks[size_t(rank)]->shared.get() + at);
}
inline void send(void* to, uint64 x, Arrival* arrival, int rank) {
    *reinterpret_cast<uint64*>(in_block(static_cast<unsigned char*>(to), rank)) = x; // aligned, or a sanitizer fails
    host::change(in_block(arrival, rank), uint64(0) - 8);
}
struct alignas(16) Wide {
    uint64 x[2];
};
template <class T> T load_shared_by_grid(const T* x) { return *x; }
template <class T> void add_atomically(T* x, T y) { std::atomic_ref<T>(*x).fetch_add(y); }
