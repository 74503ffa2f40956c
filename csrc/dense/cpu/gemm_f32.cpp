// The matrix product of floats
#include "dense/cpu/matrix_product.hpp"

namespace fastiter::dense::FASTITER_LEVEL {

template size_t gemm_workspace(const Gemm<float>&, int);
template void gemm(const Gemm<float>&, Team);

const GemmKernels<float> gemm_f32 = {gemm_workspace<float>, gemm<float>};

} // namespace fastiter::dense::FASTITER_LEVEL
