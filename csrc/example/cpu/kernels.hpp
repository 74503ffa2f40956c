// Kernels of the family example.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstdint>

FASTITER_FAMILY(example)

namespace fastiter::example {

// y[i] = x[i] / (1 + |x[i]|), i < n; x and y may be the same.
template <class T> struct Softsign {
    const T* x = nullptr;
    T* y = nullptr;
    int64_t n = 0;
};

struct Kernels {
    void (*f32)(const Softsign<float>&, Team);
    void (*f64)(const Softsign<double>&, Team);
};

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::example
