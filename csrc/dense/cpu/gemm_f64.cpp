// The matrix product of doubles
#include "dense/cpu/matrix_product.hpp"

namespace fastiter::dense::FASTITER_LEVEL {

template size_t gemm_workspace(const Gemm<double>&, int);
template void gemm(const Gemm<double>&, Team);

const GemmKernels<double> gemm_f64 = {gemm_workspace<double>, gemm<double>};

} // namespace fastiter::dense::FASTITER_LEVEL
