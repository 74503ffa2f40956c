// Runs a kernel: picks its plan and threads, gives it a workspace, orders ragged rows.
#pragma once
#include "cpu/kernels.hpp"

namespace fastiter {

// lengths in batch order (nullptr: all T). Fills in order, plan and workspace.
template <class T> void run_forward(RnnForward<T> p);

// The gradient of r, (G, N, D, D) or null, is a matrix product of the gates' gradients with h before each step.
template <class T> void run_backward(RnnBackward<T> p, T* dr);

template <class T> void weight_gradient(const RnnBackward<T>& p, T* dr);

template <class T> void run_gemm(Gemm<T> g);
template <class T> void run_column_sums(const T* x, int64_t x_m, int64_t M, int64_t N, T* out);

} // namespace fastiter
