#pragma once
#include "dense/cpu/kernels.hpp"

namespace fastiter::FASTITER_LEVEL {

template <class T, Function F> void apply_function(const T* x, T* out, int64_t n);
template <class T> T read_stream(const T* x, int64_t n);

} // namespace fastiter::FASTITER_LEVEL
