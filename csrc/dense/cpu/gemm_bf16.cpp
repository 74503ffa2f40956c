#include "dense/cpu/matrix_product.hpp"

namespace fastiter::dense::FASTITER_LEVEL {

const GemmKernels<bf16> gemm_bf16 = {gemm_workspace<bf16>, gemm<bf16>};

} // namespace fastiter::dense::FASTITER_LEVEL
