// Formats with a shared scale per block, for floats
#include "quant/cpu/blocks.hpp"

namespace fastiter::quant::FASTITER_LEVEL {

template QuantKernel<float> block_kernel<float>(const QuantFormat&);

} // namespace fastiter::quant::FASTITER_LEVEL
