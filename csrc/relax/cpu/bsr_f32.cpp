// Block relaxation with matrices of floats, for vectors of floats
#include "relax/cpu/bsr.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

FASTITER_RELAX_BLOCKS(float, float)

} // namespace fastiter::relax::FASTITER_LEVEL
