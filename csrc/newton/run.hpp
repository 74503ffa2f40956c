// Runs the kernels of the diagonal cells: threads, workspace, the order of ragged rows.
#pragma once
#include "newton/cpu/kernels.hpp"

namespace fastiter::newton {

// lengths are in batch order (nullptr: all T); order, counts and workspace are filled in. With a window, Newton's
// method: `steps` (2, B) or null then receives for each row the largest number of passes of its windows, and the number
// of windows that were finished step by step. Without a window, step by step.
template <class T> void run_para_forward(ParaForward<T> p, int64_t* steps);
template <class T> void run_para_backward(ParaBackward<T> p);

} // namespace fastiter::newton
