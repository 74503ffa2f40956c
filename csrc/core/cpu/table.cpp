// The kernel table of this instruction set.
#include "core/cpu/elementwise.hpp"
#include "core/kernels.hpp"
#include "dense/cpu/gemm.hpp"
#include "quant/cpu/kernels.hpp"
#include "quant/cpu/matmul/fixed_kernels.hpp"
#include "quant/cpu/matmul/float_kernels.hpp"
#include "rnn/cpu/stream_kernels.hpp"
#include "scan/cpu/sequences.hpp"

namespace fastiter::FASTITER_LEVEL {

// Defined in the files of their kernels
extern const GemmKernels<bf16> gemm_bf16;
extern const DeltaKernels delta_kernels;
extern const NewtonKernels newton_kernels;
extern const RelaxKernels relax_kernels;

extern const RnnKernels<float> rnn_f32;
extern const RnnKernels<double> rnn_f64;
extern const RnnKernels<bf16> rnn_bf16;

extern const StepKernelsOf<float> step_f32;
extern const StepKernelsOf<double> step_f64;

namespace {

template <class T>
constexpr KernelsOf<T> kernels_of = {
    {gemm_workspace<T>, gemm<T>},
    column_sums<T>,
    {apply_function<T, Function::exp>, apply_function<T, Function::sigmoid>, apply_function<T, Function::tanh>,
     apply_function<T, Function::log_sigmoid>},
    read_stream<T>,
};

template <class S>
constexpr LinearScanKernels<S, value<S>> linear_scan_kernels = {
    linear_scan<S>,
    linear_scan_gradient_workspace<S>,
    linear_scan_gradient<S>,
};
template <class T>
constexpr BlockScanKernels<T> block_scan_kernels = {
    block_scan<T>,
    block_scan_gradient_workspace<T>,
    block_scan_gradient<T>,
};

} // namespace

extern const ScanKernels scan_kernels = {linear_scan_kernels<float>, linear_scan_kernels<double>,
                                         linear_scan_kernels<bf16>, block_scan_kernels<float>,
                                         block_scan_kernels<double>};

extern const StepKernels step_kernels = {&step_f32, &step_f64};

extern const Kernels kernels = {
    kernels_of<float>, kernels_of<double>, &gemm_bf16,     column_sums<bf16>,     &delta_kernels,
    &fixed_kernels,    &newton_kernels,    &quant_kernels, &quant_matmul_kernels, &relax_kernels,
    &rnn_f32,          &rnn_f64,           &rnn_bf16,      &scan_kernels,         &step_kernels};

} // namespace fastiter::FASTITER_LEVEL
