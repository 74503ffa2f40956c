// Runs matrix products with a small-float accumulator.
#pragma once
#include "quant/cpu/matmul/float_kernels.hpp"

namespace fastiter::quant {

void run_quant_matmul(QuantMatmul g);

} // namespace fastiter::quant
