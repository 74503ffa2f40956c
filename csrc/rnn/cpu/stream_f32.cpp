#include "rnn/cpu/stream.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

const StepKernels<float> step_f32 = step_kernels_for<float>;

} // namespace fastiter::rnn::FASTITER_LEVEL
