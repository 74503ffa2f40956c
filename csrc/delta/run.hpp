// Runs the kernels of the delta rule with their threads and workspace.
#pragma once
#include "delta/cpu/kernels.hpp"

namespace fastiter::delta {

template <class T> void run_delta_forward(DeltaForward<T> p);
template <class T> void run_delta_backward(DeltaBackward<T> p);

} // namespace fastiter::delta
