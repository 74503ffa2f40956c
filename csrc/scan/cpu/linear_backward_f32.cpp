// The backward pass of the linear scan for floats
#include "scan/cpu/linear_backward.hpp"

namespace fastiter::scan::FASTITER_LEVEL {

FASTITER_SCAN_GRADIENT(float)

} // namespace fastiter::scan::FASTITER_LEVEL
