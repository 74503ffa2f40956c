#include "dense/cpu/matrix_product.hpp"

namespace fastiter::FASTITER_LEVEL {

extern const GemmKernels<bf16> gemm_bf16 = {gemm_workspace<bf16>, gemm<bf16>};

} // namespace fastiter::FASTITER_LEVEL
