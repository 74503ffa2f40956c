// Newton's method for doubles
#include "newton/cpu/newton.hpp"

namespace fastiter::newton::FASTITER_LEVEL {

FASTITER_NEWTON(double)

} // namespace fastiter::newton::FASTITER_LEVEL
