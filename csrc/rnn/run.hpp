// Runs a kernel: chooses its plan and threads, provides a workspace, sorts ragged rows.
#pragma once
#include "core/kernels.hpp"
#include <vector>

namespace fastiter {

// Offset added to the code of a cell whose states are rounded: see python/fastiter/rnn/_cells.py.
constexpr int64_t kRoundsStates = 8;
inline void set_cell(RnnShape& shape, int64_t code) {
    shape.cell = Cell(code % kRoundsStates);
    shape.rounds_states = code >= kRoundsStates;
}

// Row indices by decreasing length; empty if there are no lengths
std::vector<int64_t> by_length(const int64_t* lengths, int64_t count);

// lengths are in batch order (nullptr: all T). Fills in order, plan and workspace.
template <class S> void run_forward(RnnForward<S> p);

// The gradient of r, (G, N, D, D) or null, is a matrix product of the gates' gradients with h before each step.
template <class S> void run_backward(RnnBackward<S> p, S* dr);

// The same with checkpoints: of the states other than h, only those between chunks of `every` steps are stored,
// (chunks - 1, B, N, D) each, and no gates. The backward pass recomputes each chunk, bitwise the same. Not with starts.
template <class S> struct Chunks {
    int64_t every = 0;
    PerState<S*, rnn_value<S>*> kept;
};
template <class S> void run_forward_in_chunks(const RnnForward<S>& p, const Chunks<S>& chunks);
template <class S>
void run_backward_in_chunks(const RnnBackward<S>& p, Steps<const S> wx, const rnn_value<S>* b, const Chunks<S>& chunks,
                            S* dr);

template <class T> void run_gemm(Gemm<T> g);

// View of a matrix: row and column strides, one of which is 1
template <class T> struct Matrix {
    const T* data;
    int64_t row, column;
};
// c (M, N) = a (M, K) b (K, N) + bias (N) or null, contiguous. bf16 are accumulated as floats and rounded once.
template <class T>
void run_product(int64_t M, int64_t N, int64_t K, Matrix<T> a, Matrix<T> b, const typename Gemm<T>::Sum* bias, T* c);

// out (N) = sum of the rows of the contiguous x (M, N)
template <class T> void run_column_sums(const T* x, int64_t M, int64_t N, T* out);

void run_copy(const void* from, size_t bytes, void* to);

} // namespace fastiter
