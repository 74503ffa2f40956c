// Runs the `quant` kernels over arrays.
#pragma once
#include "quant/cpu/kernels.hpp"

namespace fastiter::quant {

QuantCounts run_quant(QuantJob job);
void run_pack(PackJob job);
// Returns the sum, if requested; it does not depend on the number of threads.
double run_quant_gradient(QuantGradientJob job, bool sum);
// n and `first` are multiples of 64.
void quant_random(uint64_t seed, uint64_t first, int64_t n, uint32_t* words);

} // namespace fastiter::quant
