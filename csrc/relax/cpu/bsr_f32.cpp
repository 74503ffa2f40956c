// Block relaxation with matrices of floats
#include "relax/cpu/bsr.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

FASTITER_RELAX_BLOCKS(float, float)
FASTITER_RELAX_BLOCKS(float, double)

} // namespace fastiter::relax::FASTITER_LEVEL
