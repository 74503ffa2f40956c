// Block relaxation with matrices of complex numbers
#include "relax/cpu/bsr.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

FASTITER_RELAX_BLOCKS(Complex, Complex)

} // namespace fastiter::relax::FASTITER_LEVEL
