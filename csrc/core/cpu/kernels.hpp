// Kernels of no family: the vector functions alone, for tests, and a read of memory, for benchmarks
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

struct Elementwise {
    ElementwiseOf<float> f32;
    ElementwiseOf<double> f64;
    template <class T> const ElementwiseOf<T>& of() const {
        if constexpr (sizeof(T) == 4)
            return f32;
        else
            return f64;
    }
};

FASTITER_TABLE(Elementwise, elementwise)

} // namespace fastiter
