// The matrix product for float and double
#include "dense/cpu/matrix_product.hpp"

namespace fastiter::FASTITER_LEVEL {

template size_t gemm_workspace(const Gemm<float>&, int);
template size_t gemm_workspace(const Gemm<double>&, int);
template void gemm(const Gemm<float>&, Team);
template void gemm(const Gemm<double>&, Team);

} // namespace fastiter::FASTITER_LEVEL
