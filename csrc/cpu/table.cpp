// This instruction set's row of kernels.
#include "elementwise.hpp"
#include "fixed_kernels.hpp"
#include "gemm.hpp"
#include "quant_kernels.hpp"
#include "quant_matmul_kernels.hpp"
#include "rnn.hpp"

namespace fastiter::FASTITER_LEVEL {
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

} // namespace

extern const Kernels kernels = {kernels_of<float>, kernels_of<double>, &fixed_kernels, &quant_kernels,
                                &quant_matmul_kernels};

} // namespace fastiter::FASTITER_LEVEL
