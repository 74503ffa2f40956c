#pragma once
#include "core/cpu/simd.hpp"
#include "dense/cpu/kernels.hpp"

namespace fastiter::dense::FASTITER_LEVEL {

// The sum over k is split into blocks of at most this length, whatever the number of threads, so that a's tile fits the
// first-level cache.
constexpr int64_t kDeepestSum = 384;
inline int64_t block_of_sum(int64_t K, int64_t deepest = kDeepestSum) {
    return max_of(1, ceil_div(K, max_of(1, ceil_div(K, deepest))));
}

template <class T> size_t gemm_workspace(const Gemm<T>& g, int threads);
template <class T> void gemm(const Gemm<T>& g, Team team);
template <class S> void column_sums(const S* x, int64_t x_m, int64_t M, int64_t N, S* out, Team team);

} // namespace fastiter::dense::FASTITER_LEVEL
