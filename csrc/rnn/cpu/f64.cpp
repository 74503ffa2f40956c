#include "rnn/cpu/table.hpp"

namespace fastiter::FASTITER_LEVEL {

extern const RnnKernels<double> rnn_f64 = rnn_kernels_of<double>;

} // namespace fastiter::FASTITER_LEVEL
