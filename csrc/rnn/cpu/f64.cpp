#include "rnn/cpu/table.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

const Kernels<double> kernels_f64 = kernels_for<double>;

} // namespace fastiter::rnn::FASTITER_LEVEL
