// Formats with a shared scale per block, for doubles
#include "quant/cpu/blocks.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

template QuantKernel<double> block_kernel<double>(const QuantFormat&);

} // namespace fastiter::quant::FASTITER_LEVEL
