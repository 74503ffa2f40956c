// Kernels that belong to no family: the vector functions alone, for tests, and a memory read, for benchmarks
#pragma once
#include "core/tables.hpp"
#include <cstdint>

namespace fastiter {

enum class Function { exp, sigmoid, tanh, log_sigmoid };
constexpr int kFunctions = 4;

template <class T> struct ElementwiseOf {
    void (*function[kFunctions])(const T* x, T* out, int64_t n);
    T (*read_stream)(const T* x, int64_t n); // sums x: the bandwidth that bench/ divides by
};

using Elementwise = ByType<ElementwiseOf<float>, ElementwiseOf<double>>;

FASTITER_TABLE(Elementwise, elementwise)

} // namespace fastiter
