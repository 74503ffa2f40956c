// Kernels that belong to no family: the vector functions alone, and a memory read, for benchmarks
#pragma once
#include "core/tables.hpp"
#include <cstdint>

namespace fastiter {

enum class Function { exp, sigmoid, softplus, silu, tanh, log_sigmoid };
constexpr int kFunctions = 6, kWithGradient = 4; // the first four also have a gradient

// Results do not depend on an element's place: remainders of fewer elements than a vector go through the same
// operations as whole vectors. The output may be an input.
template <class T> struct ElementwiseOf {
    void (*function[kFunctions])(const T* x, T* out, int64_t n);
    // dx = dy f'(x), given `saved`: f(x) for exp and sigmoid, x for softplus and silu
    void (*gradient[kWithGradient])(const T* saved, const T* dy, T* dx, int64_t n);
    T (*read_stream)(const T* x, int64_t n); // sums x: the bandwidth that bench/ divides by
};

using Elementwise = ByType<ElementwiseOf<float>, ElementwiseOf<double>>;

FASTITER_TABLE(Elementwise, elementwise)

} // namespace fastiter
