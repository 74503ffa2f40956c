// Runs products whose accumulator is a small float.
#pragma once
#include "cpu/quant_matmul_kernels.hpp"

namespace fastiter {

void run_quant_matmul(QuantMatmul g);

} // namespace fastiter
