#include "rnn/cpu/table.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

template void multiply(TileRegisters&, int, int, int, const Product<double>&); // also for the streams

const Kernels<double> kernels_f64 = kernels_for<double>;

} // namespace fastiter::rnn::FASTITER_LEVEL
