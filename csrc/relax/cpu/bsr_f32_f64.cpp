// Block relaxation with matrices of floats, for vectors of doubles
#include "relax/cpu/bsr.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

FASTITER_RELAX_BLOCKS(float, double)

} // namespace fastiter::relax::FASTITER_LEVEL
