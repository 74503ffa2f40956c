#include "rnn/cpu/stream.hpp"

namespace fastiter::FASTITER_LEVEL {

extern const StepKernelsOf<float> step_f32 = step_kernels_of<float>;

} // namespace fastiter::FASTITER_LEVEL
