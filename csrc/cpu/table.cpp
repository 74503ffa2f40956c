// This instruction set's row of kernels.
#include "elementwise.hpp"
#include "fixed_kernels.hpp"
#include "gemm.hpp"
#include "kernels.hpp"
#include "quant_kernels.hpp"
#include "quant_matmul_kernels.hpp"
#include "rnn.hpp"
#include "scan.hpp"

namespace fastiter::FASTITER_LEVEL {

// Defined beside the kernels that they list
extern const DeltaKernels delta_kernels;
extern const NewtonKernels newton_kernels;

namespace {

// Calls f<Cell type>() for the cell's tag.
template <class T, class F> auto with_cell(Cell cell, F f) {
    switch (cell) {
    case Cell::elman_tanh:
        return f.template operator()<Elman<T, false>>();
    case Cell::elman_relu:
        return f.template operator()<Elman<T, true>>();
    case Cell::lstm:
        return f.template operator()<Lstm<T>>();
    case Cell::gru:
        return f.template operator()<Gru<T>>();
    default:
        return f.template operator()<Slstm<T>>();
    }
}

template <class T> size_t rnn_fwd_workspace(const RnnShape& shape, const RnnPlan& plan) {
    return with_cell<T>(shape.cell, [&]<class C>() { return forward_workspace<T, C>(shape, plan); });
}
template <class T> size_t rnn_bwd_workspace(const RnnShape& shape, const RnnPlan& plan) {
    return with_cell<T>(shape.cell, [&]<class C>() { return backward_workspace<T, C>(shape, plan); });
}
template <class T> void rnn_fwd(const RnnForward<T>& p, Team team) {
    with_cell<T>(p.shape.cell, [&]<class C>() { forward<T, C>(p, team); });
}
template <class T> void rnn_bwd(const RnnBackward<T>& p, Team team) {
    with_cell<T>(p.shape.cell, [&]<class C>() { backward<T, C>(p, team); });
}

template <class T>
constexpr KernelsOf<T> kernels_of = {
    rnn_plan<T>,
    rnn_fwd_workspace<T>,
    rnn_bwd_workspace<T>,
    rnn_fwd<T>,
    rnn_bwd<T>,
    gemm_workspace<T>,
    gemm<T>,
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

extern const Kernels kernels = {kernels_of<float>, kernels_of<double>, &delta_kernels,        &fixed_kernels,
                                &newton_kernels,   &quant_kernels,     &quant_matmul_kernels, &scan_kernels};

} // namespace fastiter::FASTITER_LEVEL
