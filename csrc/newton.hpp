// Runs the kernels of the diagonal cells: threads, workspace, the order of ragged rows.
#pragma once
#include "cpu/newton_kernels.hpp"

namespace fastiter {

// lengths in batch order (nullptr: all T); order, counts and workspace are filled in. With a window, Newton's method; `steps`
// (2, B) or null then gets for each row the most passes that one of its windows took, and how many windows were run step by
// step in the end. Without one, step by step.
template <class T> void run_para_forward(ParaForward<T> p, int64_t* steps);
template <class T> void run_para_backward(ParaBackward<T> p);

} // namespace fastiter
