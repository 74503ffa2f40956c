// Block relaxation with matrices of doubles
#include "relax/cpu/bsr.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

FASTITER_RELAX_BLOCKS(double, double)

} // namespace fastiter::relax::FASTITER_LEVEL
