#include "rnn/cpu/stream.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

const StepKernels<double> step_f64 = step_kernels_for<double>;

} // namespace fastiter::rnn::FASTITER_LEVEL
