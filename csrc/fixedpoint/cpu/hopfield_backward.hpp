// Backward pass of one update. With g the gradient of sum_s p_s x_s, and p as computed in the update,
//
//   w_s = p_s (x_s . g - c),  c = g . sum_s p_s x_s     dxi = beta sum_s w_s x_s     dbeta = sum_s w_s (x_s . xi)
//   dx_s = p_s g + beta w_s xi
//
// As the Jacobian is symmetric, dxi is also the change of the update for a change g of xi.
#pragma once
#include "fixedpoint/cpu/hopfield.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

// A tile of queries: panels of D lines for xi and g, and one number per query for the rest
template <class T> struct BackwardTile {
    const int32_t* index = nullptr;
    int64_t count = 0;
    const T *xi = nullptr, *g = nullptr;
    Lanes<T> largest, inverse, c;
};

template <class T> class Backward {
public:
    static constexpr int W = lanes<T>;

    Backward(int64_t D, Scratch& scratch) : D_(D) {
        weights_ = scratch.take<T>(kPatterns * kTileQueries<T>);
        own_ = scratch.take<T>(kPatterns * kTileQueries<T>);
        g_rows_ = scratch.take<T>(kTileQueries<T> * width());
        xi_rows_ = scratch.take<T>(kTileQueries<T> * width());
    }

    // Writes dxi / beta, a panel. If dstored is not null, adds the tile's contribution to it, (pattern, D).
    template <int NV>
    FASTITER_NOINLINE void run(const Problem<T>& problem, const BackwardTile<T>& t, T* dxi, T* dstored) {
        __builtin_memset(dxi, 0, size_t(D_ * NV * W) * sizeof(T));
        if (dstored) {
            to_rows(t.g, NV * W, t.count, broadcast(T(1)), g_rows_);
            to_rows(t.xi, NV * W, t.count, broadcast(problem.beta), xi_rows_);
        }
        Lanes<T> whole = {}, highest = {};
        for (int v = 0; v < NV; ++v) whole.of[v] = broadcast(T(1));
        for (int64_t s0 = 0; s0 < problem.S; s0 += kPatterns) {
            const int64_t n = min_of(kPatterns, problem.S - s0);
            problem.template scores<NV>(t.xi, t.index, t.count, s0, n, own_, highest);
            for (int64_t s = 0; s < n; ++s)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) {
                    const int64_t at = (s * NV + v) * W;
                    const vec<T> e = exp_of_nonpositive<T>(load(own_ + at) - t.largest.of[v]);
                    store(weights_ + at, e * t.inverse.of[v]);
                }
            problem.template products<NV>(t.g, s0, n, own_);
            for (int64_t s = 0; s < n; ++s)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) {
                    const int64_t at = (s * NV + v) * W;
                    store(own_ + at, load(weights_ + at) * (load(own_ + at) - t.c.of[v]));
                }
            problem.template add_weighted<NV>(own_, s0, n, whole, dxi);
            if (dstored) add_to_patterns(NV * W, t.count, n, dstored + s0 * D_);
        }
    }

private:
    int64_t width() const { return round_up(D_, W); }

    // Writes the panel's queries as lines of length D, in blocks of at most kTileVectors vectors:
    // rows[block][query][d].
    void to_rows(const T* panel, int64_t pitch, int64_t count, vec<T> factor, T* rows) const {
        for (int64_t d = 0; d < D_; d += W) {
            const int64_t block = d / kBlock * kBlock, wide = min_of(kBlock, width() - block);
            for (int64_t l = 0; l < count; l += W) {
                vec<T> some[W];
                for (int i = 0; i < W; ++i)
                    some[i] = i < D_ - d ? load(panel + (d + i) * pitch + l) * factor : vec<T>{};
                transpose<T>(some);
                for (int w = 0; w < W; ++w) store(rows + block * kTileQueries<T> + (l + w) * wide + d - block, some[w]);
            }
        }
    }

    // to[s] += sum over the queries l of p[s][l] g[l] + w[s][l] beta xi[l], for n patterns
    FASTITER_NOINLINE void add_to_patterns(int64_t pitch, int64_t count, int64_t n, T* to) const {
        for (int64_t d = 0; d < D_; d += kBlock)
            with_count<kTileVectors>(int(min_of(kTileVectors, ceil_div(D_ - d, W))), [&]<int ND>() {
                for_each_tile<tile_rows<ND>>(n, [&](int64_t first, int rows) {
                    with_count<tile_rows<ND>>(
                        rows, [&]<int R>() { add_tile<R, ND>(pitch, count, first, d, to + first * D_ + d); });
                });
            });
    }

    template <int R, int ND> void add_tile(int64_t pitch, int64_t count, int64_t s, int64_t d, T* to) const {
        vec<T> acc[R][ND];
#pragma GCC unroll 12
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < ND; ++v) acc[i][v] = load_up_to(to + i * D_ + v * W, max_of(0, D_ - d - v * W));
        const int64_t block = d * kTileQueries<T>;
        multiply_add<T, R, ND, 1>(weights_ + s * pitch, pitch, 1, g_rows_ + block, 0, count, acc);
        multiply_add<T, R, ND, 1>(own_ + s * pitch, pitch, 1, xi_rows_ + block, 0, count, acc);
#pragma GCC unroll 12
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < ND; ++v) store_up_to(to + i * D_ + v * W, acc[i][v], max_of(0, D_ - d - v * W));
    }

    static constexpr int64_t kBlock = kTileVectors * W;
    int64_t D_;
    T *weights_ = nullptr, *own_ = nullptr, *g_rows_ = nullptr, *xi_rows_ = nullptr;
};

// Partial sums dstored and dbeta, one copy for each chunk of queries if a problem has several chunks
template <class T> class Partial {
public:
    Partial(const HopfieldShape& q, T* dstored, T* dbeta, Scratch& shared)
        : q_(q), chunks_(max_of(1, ceil_div(q.L, kHopfieldChunk))), dstored_(dstored), dbeta_(dbeta) {
        if (chunks_ == 1) return;
        own_ = shared.take<T>(q.problems() * chunks_ * q.S * q.D);
        beta_ = shared.take<T>(q.problems() * chunks_);
    }
    int64_t chunks() const { return chunks_; }
    int64_t units() const { return q_.problems() * chunks_; }
    T* dstored(int64_t unit) const { return (chunks_ == 1 ? dstored_ : own_) + unit * q_.S * q_.D; }
    T* dbeta(int64_t unit) const { return (chunks_ == 1 ? dbeta_ : beta_) + unit; }

    // Adds up the chunks of the problems assigned to this thread.
    void add(const Team& team) const {
        if (chunks_ == 1) return;
        const int64_t size = q_.S * q_.D;
        for (int64_t number = team.id; number < q_.problems(); number += team.size) {
            T* to = dstored_ + number * size;
            dbeta_[number] = 0;
            for (int64_t k = 0; k < chunks_; ++k) {
                const T* from = dstored(number * chunks_ + k);
                dbeta_[number] += *dbeta(number * chunks_ + k);
                for (int64_t i = 0; i < size; ++i) to[i] = k == 0 ? from[i] : to[i] + from[i];
            }
        }
    }

private:
    const HopfieldShape& q_;
    int64_t chunks_;
    T *dstored_, *dbeta_, *own_ = nullptr, *beta_ = nullptr;
};

// The sum of the first `count` lanes
template <class T> T total(const Lanes<T>& x, int64_t count) {
    T some[kTileQueries<T>] = {}, sum = 0;
    for (int v = 0; v < kTileVectors; ++v) store(some + v * lanes<T>, x.of[v]);
    for (int64_t l = 0; l < count; ++l) sum += some[l];
    return sum;
}

// Compiled once, in hopfield_backward.cpp
#define FASTITER_HOPFIELD_BACKWARD_TILE(EXTERN, T, NV) \
    EXTERN template void Backward<T>::run<NV>(const Problem<T>&, const BackwardTile<T>&, T*, T*);
#define FASTITER_HOPFIELD_BACKWARD(EXTERN, T)     \
    FASTITER_HOPFIELD_BACKWARD_TILE(EXTERN, T, 1) \
    FASTITER_HOPFIELD_BACKWARD_TILE(EXTERN, T, 2) \
    FASTITER_HOPFIELD_BACKWARD_TILE(EXTERN, T, 3) \
    FASTITER_HOPFIELD_BACKWARD_TILE(EXTERN, T, 4)
FASTITER_HOPFIELD_BACKWARD(extern, float)
FASTITER_HOPFIELD_BACKWARD(extern, double)

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
