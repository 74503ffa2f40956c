// Newton's method for floats
#include "newton/cpu/newton.hpp"

namespace fastiter::newton::FASTITER_LEVEL {

FASTITER_NEWTON(float)

} // namespace fastiter::newton::FASTITER_LEVEL
