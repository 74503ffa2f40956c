// The backward pass of the linear scan for doubles
#include "scan/cpu/linear_backward.hpp"

namespace fastiter::scan::FASTITER_LEVEL {

FASTITER_SCAN_GRADIENT(double)

} // namespace fastiter::scan::FASTITER_LEVEL
