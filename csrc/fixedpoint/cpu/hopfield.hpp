// Associates a tile of queries with the patterns of one problem. Vector lanes are queries: patterns are read in place,
// one number at a time, the softmax needs no sum across lanes, and the sums of a query do not depend on the other
// queries in its tile. A panel holds some rows of all queries of a tile: panel[row][query].
#pragma once
#include "core/cpu/pack.hpp"
#include "core/cpu/tile.hpp"
#include "core/cpu/vmath.hpp"
#include "fixedpoint/cpu/hopfield_kernels.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

constexpr int kTileVectors = 4;
template <class T> constexpr int64_t kTileQueries = kTileVectors * lanes<T>;
// Patterns processed at a time: their panel stays in the first-level cache.
constexpr int64_t kPatterns = 120;

// Hands out parts of a thread's workspace; only counts their bytes if there is none yet.
class Scratch {
public:
    explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}
    template <class U> U* take(int64_t count) {
        char* at = memory_ ? memory_ + bytes_ : nullptr;
        bytes_ += size_t(round_up(count * int64_t(sizeof(U)), 64));
        return reinterpret_cast<U*>(at);
    }
    size_t bytes() const { return bytes_; }

private:
    char* memory_;
    size_t bytes_ = 0;
};

// panel[d][l] = rows[index[l]][d] for l < count, 0 for the remaining lanes of a line of `pitch` lanes, which is whole
// vectors
template <class T>
void gather(const T* rows, int64_t row, const int32_t* index, int64_t count, int64_t D, T* panel, int64_t pitch) {
    constexpr int W = lanes<T>;
    for (int64_t l = 0; l < pitch; l += W)
        for (int64_t d = 0; d < D; d += W) {
            vec<T> some[W];
            for (int w = 0; w < W; ++w)
                some[w] = l + w < count ? load_up_to(rows + index[l + w] * row + d, D - d) : vec<T>{};
            transpose<T>(some);
            for (int64_t i = 0; i < min_of(W, D - d); ++i) store(panel + (d + i) * pitch + l, some[i]);
        }
}

template <class T>
void scatter(const T* panel, int64_t pitch, const int32_t* index, int64_t count, int64_t D, T* rows, int64_t row) {
    constexpr int W = lanes<T>;
    for (int64_t l = 0; l < count; l += W)
        for (int64_t d = 0; d < D; d += W) {
            vec<T> some[W];
            for (int i = 0; i < W; ++i) some[i] = i < D - d ? load(panel + (d + i) * pitch + l) : vec<T>{};
            transpose<T>(some);
            for (int64_t w = 0; w < min_of(W, count - l); ++w)
                store_up_to(rows + index[l + w] * row + d, some[w], D - d);
        }
}

// One number for each lane of a tile
template <class T> struct Lanes {
    vec<T> of[kTileVectors];
};
template <class T> void gather_lanes(const T* from, const int32_t* index, int64_t count, Lanes<T>& to) {
    T some[kTileQueries<T>] = {};
    for (int64_t l = 0; l < count; ++l) some[l] = from[index[l]];
    for (int v = 0; v < kTileVectors; ++v) to.of[v] = load(some + v * lanes<T>);
}
template <class T> void scatter_lanes(const Lanes<T>& from, const int32_t* index, int64_t count, T* to) {
    T some[kTileQueries<T>] = {};
    for (int v = 0; v < kTileVectors; ++v) store(some + v * lanes<T>, from.of[v]);
    for (int64_t l = 0; l < count; ++l) to[index[l]] = some[l];
}

// sum over d of a[d] b[d], for each lane
template <class T> Lanes<T> dots(const T* a, const T* b, int64_t D, int NV) {
    Lanes<T> sums = {};
    for (int64_t d = 0; d < D; ++d)
        for (int v = 0; v < NV; ++v) {
            const int64_t at = (d * NV + v) * lanes<T>;
            sums.of[v] = fma(load(a + at), load(b + at), sums.of[v]);
        }
    return sums;
}

// The patterns of one problem, and their products with a tile of queries
template <class T> class Problem {
public:
    static constexpr int W = lanes<T>;

    Problem(const HopfieldProblem<T>& p, int64_t number)
        : S(p.shape.S), D(p.shape.D), beta(p.beta[number]), bias_(p.bias) {
        const int64_t b = number / p.shape.heads, h = number % p.shape.heads;
        stored_ = p.stored.data + b * p.stored.batch + h * p.stored.head;
        row_ = p.stored.row;
        if (bias_.data) bias_.data += b * bias_.batch + h * bias_.head;
    }

    const int64_t S, D;
    const T beta;

    // Writes z for patterns [s0, s0 + n): out[s][query], and raises `highest` to the largest z of each lane. index: the
    // queries of the lanes
    template <int NV>
    FASTITER_NOINLINE void scores(const T* xi, const int32_t* index, int64_t count, int64_t s0, int64_t n, T* out,
                                  Lanes<T>& highest) const {
        const bool own = bias_.data && bias_.query != 0; // one bias per query
        if (own) read_bias<NV>(index, count, s0, n, out);
        const vec<T> scale = broadcast(beta);
        vec<T> top[NV];
        for (int v = 0; v < NV; ++v) top[v] = highest.of[v];
        for_products<NV>(xi, s0, n, [&](int64_t s, vec<T>(&line)[NV]) {
            const vec<T> shared = bias_.data && !own ? broadcast(bias_.data[(s0 + s) * bias_.pattern]) : vec<T>{};
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) {
                T* const at = out + (s * NV + v) * W;
                const vec<T> z = fma(scale, line[v], own ? load(at) : shared);
                top[v] = max_keeping_nan(top[v], z);
                store(at, z);
            }
        });
        for (int v = 0; v < NV; ++v) highest.of[v] = top[v];
    }

    // Writes x_s . panel for patterns [s0, s0 + n): out[s][query]
    template <int NV> FASTITER_NOINLINE void products(const T* panel, int64_t s0, int64_t n, T* out) const {
        for_products<NV>(panel, s0, n, [&](int64_t s, vec<T>(&line)[NV]) {
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) store(out + (s * NV + v) * W, line[v]);
        });
    }

    // out[d] = keep out[d] + sum over patterns [s0, s0 + n) of weight[s] x_s[d], for each lane
    template <int NV>
    FASTITER_NOINLINE void add_weighted(const T* weight, int64_t s0, int64_t n, const Lanes<T>& keep, T* out) const {
        for_each_tile<tile_rows<NV>>(D, [&](int64_t first, int count) {
            with_count<tile_rows<NV>>(count, [&]<int R>() {
                vec<T> acc[R][NV];
                T* const to = out + first * NV * W;
#pragma GCC unroll 12
                for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) acc[i][v] = load(to + (i * NV + v) * W) * keep.of[v];
                multiply_add<T, R, NV, 1>(stored_ + s0 * row_ + first, 1, row_, weight, 0, n, acc);
#pragma GCC unroll 12
                for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) store(to + (i * NV + v) * W, acc[i][v]);
            });
        });
    }

    // out = sum over s of p_s x_s for the queries of the panel xi; largest and inverse as in Softmax
    template <int NV>
    FASTITER_NOINLINE void associate(const T* xi, const int32_t* index, int64_t count, T* block, T* out,
                                     Lanes<T>& largest, Lanes<T>& inverse) const {
        constexpr T kLowest = -T(__builtin_inf());
        vec<T> top[NV], sum[NV];
        for (int v = 0; v < NV; ++v) {
            top[v] = broadcast(kLowest);
            sum[v] = vec<T>{};
        }
        __builtin_memset(out, 0, size_t(D * NV * W) * sizeof(T));
        for (int64_t s0 = 0; s0 < S; s0 += kPatterns) {
            const int64_t n = min_of(kPatterns, S - s0);
            Lanes<T> keep = {};
            Lanes<T> higher = {};
            for (int v = 0; v < NV; ++v) higher.of[v] = top[v];
            scores<NV>(xi, index, count, s0, n, block, higher);
            for (int v = 0; v < NV; ++v) {
                const vec<T> shift = finite_or_zero(higher.of[v]);
                keep.of[v] = exp_of_nonpositive<T>(top[v] - shift);
                top[v] = higher.of[v];
                largest.of[v] = shift;
            }
            exponentials<NV>(block, n, largest, keep, sum);
            add_weighted<NV>(block, s0, n, keep, out);
        }
        for (int v = 0; v < NV; ++v) {
            if (S == 0) largest.of[v] = vec<T>{};
            inverse.of[v] = select<T>(sum[v] == vec<T>{}, vec<T>{}, broadcast(T(1)) / sum[v]);
        }
        for (int64_t d = 0; d < D; ++d)
            for (int v = 0; v < NV; ++v) {
                T* at = out + (d * NV + v) * W;
                store(at, load(at) * inverse.of[v]);
            }
    }

private:
    // If no pattern is left, z is -inf, and its exponentials must be 0, not exp(-inf + inf).
    static vec<T> finite_or_zero(vec<T> x) { return select<T>(x == broadcast(-T(__builtin_inf())), vec<T>{}, x); }

    // Replaces z by e^(z - largest); sum <- keep sum + the sum of these.
    template <int NV>
    static void exponentials(T* block, int64_t n, const Lanes<T>& largest, const Lanes<T>& keep, vec<T> (&sum)[NV]) {
        vec<T> added[NV] = {};
        for (int64_t s = 0; s < n; ++s)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) {
                T* at = block + (s * NV + v) * W;
                const vec<T> e = exp_of_nonpositive<T>(load(at) - largest.of[v]);
                store(at, e);
                added[v] += e;
            }
        for (int v = 0; v < NV; ++v) sum[v] = fma(sum[v], keep.of[v], added[v]);
    }

    // Computes x_s . panel for patterns [s0, s0 + n) and calls f(pattern, line).
    template <int NV, class F> FASTITER_INLINE void for_products(const T* panel, int64_t s0, int64_t n, F f) const {
        for_each_tile<tile_rows<NV>>(n, [&](int64_t first, int count) {
            with_count<tile_rows<NV>>(count, [&]<int R>() {
                vec<T> acc[R][NV] = {};
                multiply_add<T, R, NV, 1>(stored_ + (s0 + first) * row_, row_, 1, panel, 0, D, acc);
#pragma GCC unroll 12
                for (int i = 0; i < R; ++i) f(first + i, acc[i]);
            });
        });
    }

    template <int NV> void read_bias(const int32_t* index, int64_t count, int64_t s0, int64_t n, T* block) const {
        for (int64_t s = 0; s < n; ++s) {
            const T* line = bias_.data + (s0 + s) * bias_.pattern;
            T* to = block + s * NV * W;
            for (int64_t l = 0; l < NV * W; ++l) to[l] = l < count ? line[index[l] * bias_.query] : T(0);
        }
    }

    const T* stored_;
    int64_t row_;
    Bias<T> bias_;
};

// Compiled once, in hopfield.cpp
#define FASTITER_HOPFIELD_TILES(EXTERN, T, NV)                                                                      \
    EXTERN template void Problem<T>::scores<NV>(const T*, const int32_t*, int64_t, int64_t, int64_t, T*, Lanes<T>&) \
        const;                                                                                                      \
    EXTERN template void Problem<T>::add_weighted<NV>(const T*, int64_t, int64_t, const Lanes<T>&, T*) const;       \
    EXTERN template void Problem<T>::associate<NV>(const T*, const int32_t*, int64_t, T*, T*, Lanes<T>&, Lanes<T>&) \
        const;
#define FASTITER_ALL_HOPFIELD_TILES(EXTERN, T) \
    FASTITER_HOPFIELD_TILES(EXTERN, T, 1)      \
    FASTITER_HOPFIELD_TILES(EXTERN, T, 2)      \
    FASTITER_HOPFIELD_TILES(EXTERN, T, 3)      \
    FASTITER_HOPFIELD_TILES(EXTERN, T, 4)
FASTITER_ALL_HOPFIELD_TILES(extern, float)
FASTITER_ALL_HOPFIELD_TILES(extern, double)

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
