#include "rnn/cpu/table.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

const Kernels<bf16> kernels_bf16 = kernels_for<bf16>;

} // namespace fastiter::rnn::FASTITER_LEVEL
