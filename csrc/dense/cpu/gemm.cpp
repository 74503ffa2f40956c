// The matrix product for float and double
#include "dense/cpu/matrix_product.hpp"

namespace fastiter::dense::FASTITER_LEVEL {

template size_t gemm_workspace(const Gemm<float>&, int);
template size_t gemm_workspace(const Gemm<double>&, int);
template void gemm(const Gemm<float>&, Team);
template void gemm(const Gemm<double>&, Team);

const GemmKernels<float> gemm_f32 = {gemm_workspace<float>, gemm<float>};
const GemmKernels<double> gemm_f64 = {gemm_workspace<double>, gemm<double>};

} // namespace fastiter::dense::FASTITER_LEVEL
