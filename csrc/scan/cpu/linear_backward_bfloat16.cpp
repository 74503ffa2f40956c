// The backward pass of the linear scan for bfloat16
#include "scan/cpu/linear_backward.hpp"

namespace fastiter::scan::FASTITER_LEVEL {

FASTITER_SCAN_GRADIENT(bf16)

} // namespace fastiter::scan::FASTITER_LEVEL
