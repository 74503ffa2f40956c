// Runs the kernels of the family `quant` over arrays.
#pragma once
#include "cpu/quant_kernels.hpp"

namespace fastiter {

QuantCounts run_quant(QuantJob job);

} // namespace fastiter
