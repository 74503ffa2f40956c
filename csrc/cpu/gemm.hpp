#pragma once
#include "dense_kernels.hpp"

namespace fastiter::FASTITER_LEVEL {

template <class T> size_t gemm_workspace(const Gemm<T>& g, int threads);
template <class T> void gemm(const Gemm<T>& g, Team team);
template <class T> void column_sums(const T* x, int64_t x_m, int64_t M, int64_t N, T* out, Team team);

} // namespace fastiter::FASTITER_LEVEL
