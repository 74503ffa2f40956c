// Runs matrix products with a small-float accumulator.
#pragma once
#include "cpu/quant_matmul_kernels.hpp"

namespace fastiter {

void run_quant_matmul(QuantMatmul g);

} // namespace fastiter
