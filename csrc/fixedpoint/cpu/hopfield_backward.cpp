// The backward pass of one update, for each number of vectors in a tile
#include "fixedpoint/cpu/hopfield_backward.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

FASTITER_HOPFIELD_BACKWARD(, float)
FASTITER_HOPFIELD_BACKWARD(, double)

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
