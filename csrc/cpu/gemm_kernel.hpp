// The matrix product of dense_kernels.hpp
#pragma once
#include "gemm_turned.hpp"

namespace fastiter::FASTITER_LEVEL {

template <class T> size_t gemm_workspace(const Gemm<T>& g, int threads) {
    if (TurnedProduct<T>::is_better(g)) return TurnedProduct<T>(g).workspace(threads);
    const MatrixProduct<T> product(g);
    return size_t(product.packed_b() + threads * product.packed_a()) * sizeof(T);
}

template <class T> void gemm(const Gemm<T>& g, Team team) {
    if (g.M == 0 || g.N == 0) return;
    if (TurnedProduct<T>::is_better(g)) return TurnedProduct<T>(g).run(team);
    const MatrixProduct<T> product(g);
    if (g.K == 0) return product.run_empty(share(g.M, team.id, team.size));
    product.run(team);
}

} // namespace fastiter::FASTITER_LEVEL
