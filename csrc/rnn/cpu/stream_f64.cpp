#include "rnn/cpu/stream.hpp"

namespace fastiter::FASTITER_LEVEL {

extern const StepKernelsOf<double> step_f64 = step_kernels_of<double>;

} // namespace fastiter::FASTITER_LEVEL
