// Runs a kernel: chooses its plan and threads, provides a workspace, sorts ragged rows.
#pragma once
#include "rnn/cpu/kernels.hpp"

namespace fastiter::rnn {

// Added to the code of a cell whose states, or products r h, are rounded: see python/fastiter/rnn/_cells.py.
constexpr int64_t kRoundsStates = 8, kRoundsProducts = 16;
inline CellSize size_of(int64_t code) { return cell_size(Cell(code % kRoundsStates)); }
inline void set_cell(RnnShape& shape, int64_t code) {
    shape.cell = Cell(code % kRoundsStates);
    shape.rounds_states = code & kRoundsStates;
    shape.rounds_products = code & kRoundsProducts;
}

// lengths are in batch order (nullptr: all T). Fills in order, plan and workspace.
template <class S> void run_forward(RnnForward<S> p);

// The gradient of r, (G, N, D, D) or null, is a matrix product of the gates' gradients with h before each step.
template <class S> void run_backward(RnnBackward<S> p, S* dr);

// The same with checkpoints: of the states other than h, only those between chunks of `every` steps are stored,
// (chunks - 1, B, N, D) each, and no gates. The backward pass recomputes each chunk, bitwise the same. Not with starts.
template <class S> struct Checkpoints {
    int64_t every = 0;
    PerState<S*, accumulate_t<S>*> saved;
};
template <class S> void run_forward_with_checkpoints(const RnnForward<S>& p, const Checkpoints<S>& chunks);
template <class S>
void run_backward_with_checkpoints(const RnnBackward<S>& p, Steps<const S> wx, const accumulate_t<S>* b,
                                   const Checkpoints<S>& chunks, S* dr);

} // namespace fastiter::rnn
