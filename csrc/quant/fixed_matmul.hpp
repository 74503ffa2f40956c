// Runs products of codes: chooses their path and threads, and provides a workspace.
#pragma once
#include "quant/cpu/matmul/fixed_kernels.hpp"

namespace fastiter::quant {

// A batch of products: product i begins at these element offsets of a, b and out.
struct FixedBatch {
    int64_t count = 1;
    const int64_t* a = nullptr;
    const int64_t* b = nullptr;
    const int64_t* out = nullptr;
};

// Returns the paths used, one bit each. `only`: see choose_plan.
int run_fixed_matmul(const FixedMatmul& g, const FixedBatch& batch, FixedPath only);

} // namespace fastiter::quant
