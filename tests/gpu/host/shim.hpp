// kernels/common/device.cuh for a CPU: one fiber per CUDA thread, and an array through which the lanes of a warp
// exchange values. The fibers, their barriers and the main program are in runtime.cpp, which is compiled once.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

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
#define SHARED_MEMORY(T, name) T* const name = reinterpret_cast<T*>(host::self->block->shared)

using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace host {
struct Warp {
    int lanes;
    uint64 word[32][4]; // per lane
};
struct Block {
    unsigned char* shared; // NaN when a block starts
    size_t bytes;
};
struct Self {
    Block* block = nullptr;
    Warp* warp = nullptr;
    int lane = 0;
    dim3 thread, at;
};
inline Self* self = nullptr; // the fiber that runs now

void meet_warp();
void meet_block();
void meet_cluster();
Block* block_of_cluster(int rank); // null if there is none
void yield();
} // namespace host

#define threadIdx (host::self->thread)
#define blockIdx (host::self->at)
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace host {
template <class T> T exchange(T x, int source) {
    static_assert(sizeof(T) <= 32);
    Warp& warp = *self->warp;
    std::memcpy(warp.word[self->lane], &x, sizeof(T));
    meet_warp();
    if (source >= 0 && source < warp.lanes) std::memcpy(&x, warp.word[source], sizeof(T));
    meet_warp();
    return x;
}

// A kernel, called with the addresses of its arguments, as the driver's launch does.
struct Kernel {
    const char* name;
    size_t arguments;
    void (*call)(void** at);
};
template <class... A, size_t... I> void call(void (*kernel)(A...), void** at, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(at[I])...);
}
template <auto kernel, class... A> constexpr Kernel named(const char* name, void (*)(A...)) {
    return {name, sizeof...(A), [](void** at) { call(kernel, at, std::index_sequence_for<A...>()); }};
}
#define NAMED(kernel) host::named<kernel>(#kernel, kernel)
const Kernel* find(const char* name); // which each program defines; null if there is none
} // namespace host

inline float __uint_as_float(uint32 x) {
    float y;
    std::memcpy(&y, &x, 4);
    return y;
}
inline uint32 __float_as_uint(float x) {
    uint32 y;
    std::memcpy(&y, &x, 4);
    return y;
}
inline int32 __float_as_int(float x) { return int32(__float_as_uint(x)); }
inline float __int_as_float(int32 x) { return __uint_as_float(uint32(x)); }
inline double __longlong_as_double(int64 x) {
    double y;
    std::memcpy(&y, &x, 8);
    return y;
}
inline int64 __double_as_longlong(double x) {
    int64 y;
    std::memcpy(&y, &x, 8);
    return y;
}
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float reciprocal(float x) { return 1.0f / x; }
inline void keep_in_register(int64&) {}
inline float either(bool is, float x, float y) { return is ? x : y; }
template <class T> T __ldcg(const T* x) { return *x; }
template <class T> T __ldg(const T* x) { return *x; }
template <class T> T min(T x, T y) { return y < x ? y : x; }
template <class T> T max(T x, T y) { return x < y ? y : x; }
using std::exp, std::log, std::log1p, std::tanh, std::fma, std::fmax, std::fmin, std::isnan, std::isinf, std::isfinite,
    std::abs, std::sqrt;

struct BFloat16 {
    unsigned short bits;
};
struct Half {
    unsigned short bits;
};
inline float to_float(float x) { return x; }
inline double to_float(double x) { return x; }
inline float to_float(BFloat16 x) { return __uint_as_float(uint32(x.bits) << 16); }
inline float to_float(Half x) {
    _Float16 y;
    std::memcpy(&y, &x, 2);
    return float(y);
}

inline float exp2_approx(float x) {
    const float y = std::exp2(x);
    return y < 0x1p-126f ? 0.0f : y;
}

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
    static Half of(float x) {
        const _Float16 y = _Float16(x);
        Half z;
        std::memcpy(&z, &y, 2);
        return z;
    }
};

namespace host {
struct Fragments {
    uint32 a[4], b[2];
};
// d += a b, every lane from the fragments of all
template <int Inner, class F> void multiply(float (&d)[4], const Fragments& own, F element) {
    Warp& warp = *self->warp;
    std::memcpy(warp.word[self->lane], &own, sizeof own);
    meet_warp();
    Fragments all[32];
    for (int lane = 0; lane < 32; ++lane) std::memcpy(&all[lane], warp.word[lane], sizeof own);
    const int g = self->lane / 4, q = self->lane % 4;
    for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i / 2), column = 2 * q + i % 2;
        float sum = d[i];
        for (int k = 0; k < Inner; ++k) {
            const auto [x, y] = element(all, row, column, k);
            sum += x * y;
        }
        d[i] = sum;
    }
    meet_warp();
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
template <class T> T from_lane_xor(T x, int mask) { return host::exchange(x, host::self->lane ^ mask); }
template <class T> T from_lane_below(T x, int by) { return host::exchange(x, host::self->lane - by); }
template <class T> T from_lane_above(T x, int by) { return host::exchange(x, host::self->lane + by); }
inline bool any_lane(bool x) {
    bool any = false;
    for (int lane = 0; lane < host::self->warp->lanes; ++lane) any |= from_lane(x, lane);
    return any;
}
inline void warp_barrier() { host::meet_warp(); }
inline void block_barrier() { host::meet_block(); }
inline void grid_arrive(uint32* arrived) {
    block_barrier();
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0)
        std::atomic_ref<uint32>(*arrived).fetch_add(1, std::memory_order_release);
}
inline void grid_wait(uint32* arrived, uint32 target) {
    if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0)
        while (int32(std::atomic_ref<uint32>(*arrived).load(std::memory_order_acquire) - target) < 0) host::yield();
    block_barrier();
}
inline void grid_barrier(uint32* arrived, uint32 target) {
    grid_arrive(arrived);
    grid_wait(arrived, target);
}

// The upper half of an Arrival counts phases; the lower half is the number of bytes still missing in its phase. Until
// `expect` adds their number, it is kMissing minus the bytes that came early.
inline void cluster_barrier() { host::meet_cluster(); }
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
    while ((std::atomic_ref<uint64>(*to).load(std::memory_order_acquire) / host::kPhase) % 2 == parity) host::yield();
}
template <class T> T* in_block(T* x, int rank) { // where x is in the shared memory of another block of the cluster
    host::Block& own = *host::self->block;
    host::Block* const other = host::block_of_cluster(rank);
    const auto at = reinterpret_cast<unsigned char*>(x) - own.shared;
    if (at < 0 || size_t(at) >= own.bytes || !other) std::abort();
    return reinterpret_cast<T*>(other->shared + at);
}
inline void send(void* to, uint64 x, Arrival* arrival, int rank) {
    *reinterpret_cast<uint64*>(in_block(static_cast<unsigned char*>(to), rank)) = x; // aligned, or a sanitizer fails
    host::change(in_block(arrival, rank), uint64(0) - 8);
}
struct alignas(16) Wide {
    uint64 x[2];
};
// The last word of a packet is stored last and loaded first, so that a half with a new tag is not seen without the
// other half, as on a card; both are relaxed, so that nothing else is ordered. Other threads run in between.
inline void store_packet(Wide* to, Wide x) {
    std::atomic_ref<uint64>(to->x[0]).store(x.x[0], std::memory_order_relaxed);
    host::yield();
    std::atomic_signal_fence(std::memory_order_seq_cst);
    std::atomic_ref<uint64>(to->x[1]).store(x.x[1], std::memory_order_relaxed);
}
inline Wide load_packet(const Wide* from) {
    Wide& there = *const_cast<Wide*>(from);
    Wide x;
    host::yield(); // callers poll
    x.x[1] = std::atomic_ref<uint64>(there.x[1]).load(std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    x.x[0] = std::atomic_ref<uint64>(there.x[0]).load(std::memory_order_relaxed);
    return x;
}
template <class T> T load_shared_by_grid(const T* x) { return *x; }
template <class T> void add_atomically(T* x, T y) { std::atomic_ref<T>(*x).fetch_add(y); }
