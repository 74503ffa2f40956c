#include "rnn/cpu/table.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

const Kernels<float> kernels_f32 = kernels_for<float>;

} // namespace fastiter::rnn::FASTITER_LEVEL
