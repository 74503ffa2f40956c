#include "rnn/cpu/table.hpp"

namespace fastiter::FASTITER_LEVEL {

extern const RnnKernels<bf16> rnn_bf16 = rnn_kernels_of<bf16>;

} // namespace fastiter::FASTITER_LEVEL
