// Runs the matrix product and the sums of columns on a team of threads.
#pragma once
#include "dense/cpu/kernels.hpp"

namespace fastiter::dense {

template <class T> void run_gemm(Gemm<T> g);

// View of a matrix: row and column strides, one of which is 1
template <class T> struct Matrix {
    const T* data;
    int64_t row, column;
};
// c (M, N) = a (M, K) b (K, N) + bias (N) or null, contiguous. bf16 are accumulated as floats and rounded once.
template <class T>
void run_product(int64_t M, int64_t N, int64_t K, Matrix<T> a, Matrix<T> b, const accumulate_t<T>* bias, T* c);

// out (N) = sum of the rows of the contiguous x (M, N)
template <class T> void run_column_sums(const T* x, int64_t M, int64_t N, T* out);

} // namespace fastiter::dense
