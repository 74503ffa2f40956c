#include "rnn/cpu/table.hpp"

namespace fastiter::FASTITER_LEVEL {

extern const RnnKernels<float> rnn_f32 = rnn_kernels_of<float>;

} // namespace fastiter::FASTITER_LEVEL
