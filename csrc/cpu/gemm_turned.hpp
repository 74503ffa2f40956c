// The matrix product whose a lies in lines, as in gradients of weights, where tiles multiply
#pragma once
#include "gemm_product.hpp"

namespace fastiter::FASTITER_LEVEL {

// The product as the transpose of b^T a^T. Tiles take k of a row side by side: lines of a would have to be turned for that,
// while those of b are taken as they are. It is the smaller matrix that is turned.
template <class T> struct TurnedProduct {
    typedef typename Gemm<T>::Sum Sum;
    static constexpr int W = lanes<Sum>;
    const Gemm<T>& g;
    const int64_t line = round_up(g.M, W);
    Gemm<T> turned;

    explicit TurnedProduct(const Gemm<T>& gemm) : g(gemm) {
        turned.M = g.N, turned.N = g.M, turned.K = g.K;
        turned.a = g.b, turned.a_m = g.b_n, turned.a_k = g.b_k, turned.a_lines = g.b_lines;
        turned.b = g.a, turned.b_k = g.a_k, turned.b_n = g.a_m, turned.b_lines = g.a_lines;
        turned.c = static_cast<Sum*>(g.workspace), turned.c_m.inner_stride = line;
        turned.workspace = g.workspace ? turned.c + g.N * line : nullptr;
    }

    static bool is_better(const Gemm<T>& g) {
        const bool a_in_lines = g.a_lines || g.a_k.inner_stride != 1, b_in_lines = g.b_lines || g.b_k.inner_stride != 1;
        const bool in_vectors = g.a_m.inner_stride == 1 && (g.a_m.is_regular(g.M) || g.a_m.inner % W == 0);
        return on_tiles<T> && a_in_lines && b_in_lines && in_vectors && g.N < g.M && !g.bias && g.K > 0;
    }

    size_t workspace(int threads) const {
        return size_t(g.N * line) * sizeof(Sum) +
               size_t(MatrixProduct<T>(turned).packed_b() + threads * MatrixProduct<T>(turned).packed_a()) * sizeof(T);
    }

    void run(Team team) const {
        MatrixProduct<T>(turned).run(team);
        wait(team.barriers[0], team.size);
        const Range mine = share(line / W, team.id, team.size);
        for (int64_t m = mine.begin * W; m < mine.end * W; m += W)
            for (int64_t n = 0; n < g.N; n += W) turn_back(m, n);
    }

    // W rows and columns of c
    void turn_back(int64_t m, int64_t n) const {
        vec<Sum> lines[W] = {};
        for (int64_t i = 0; i < min_of(W, g.N - n); ++i) lines[i] = load(turned.c + (n + i) * line + m);
        transpose<Sum>(lines);
        for (int64_t i = 0; i < min_of(W, g.M - m); ++i) {
            const int64_t at = g.c_m.at(m + i) + n, left = g.N - n;
            const vec<Sum> sum = g.accumulate ? load_up_to(g.c + at, left) + lines[i] : lines[i];
            if (g.rounded)
                store_up_to(g.rounded + at, sum, left);
            else
                store_up_to(g.c + at, sum, left);
        }
    }
};

} // namespace fastiter::FASTITER_LEVEL
