// Block relaxation with matrices of doubles and of complex numbers
#include "relax/cpu/bsr.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

FASTITER_RELAX_BLOCKS(double, double)
FASTITER_RELAX_BLOCKS(Complex, Complex)

} // namespace fastiter::relax::FASTITER_LEVEL
