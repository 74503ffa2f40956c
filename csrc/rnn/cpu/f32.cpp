#include "rnn/cpu/table.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

template void multiply(TileRegisters&, int, int, int, const Product<float>&); // also for the streams

const Kernels<float> kernels_f32 = kernels_for<float>;

} // namespace fastiter::rnn::FASTITER_LEVEL
