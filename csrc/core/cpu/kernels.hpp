// Kernels that belong to no family: the vector functions alone, and a memory read, for benchmarks
#pragma once
#include "core/tables.hpp"
#include <cstdint>

namespace fastiter {

enum class Function { exp, sigmoid, softplus, tanh, log_sigmoid };
constexpr int kFunctions = 5, kWithGradient = 3; // the first three also have a gradient

// Results do not depend on an element's place: remainders of fewer elements than a vector go through the same
// operations as whole vectors. The output may be an input.
template <class T> struct ElementwiseOf {
    void (*function[kFunctions])(const T* x, T* out, int64_t n);
    // dx = dy f'(x), given `saved`: f(x) for exp and sigmoid, x for softplus
    void (*gradient[kWithGradient])(const T* saved, const T* dy, T* dx, int64_t n);
    void (*gate)(const T* y, const T* z, T* out, int64_t n); // out = y z sigmoid(z)
    // dy = d z sigmoid(z) and dz = d y (z sigmoid(z))'
    void (*gate_gradient)(const T* y, const T* z, const T* d, T* dy, T* dz, int64_t n);
    T (*read_stream)(const T* x, int64_t n); // sums x: the bandwidth that bench/ divides by
};

using Elementwise = ByType<ElementwiseOf<float>, ElementwiseOf<double>>;

FASTITER_TABLE(Elementwise, elementwise)

} // namespace fastiter
