// The gradient of r, (G, N, D, D): a small one is accumulated by the backward kernel, a large one is a matrix product
// afterwards.
#pragma once
#include "core/launch.hpp"
#include "dense/run.hpp"
#include "rnn/run.hpp"

namespace fastiter::rnn {

using dense::Gemm, dense::Matrix, dense::SplitIndex;

template <class S> class WeightGradient {
public:
    // Sets what the kernel sums, or where the product will find dq. dr == nullptr: not requested.
    WeightGradient(RnnBackward<S>& p, S* dr);
    bool is_inside() const { return inside_; }
    // Size of the kernel's sums
    int64_t size_inside() const { return inside_ ? parts_ * size_ : 0; }
    // Call when the kernel has processed all steps.
    void finish(const RnnBackward<S>& p);

private:
    S* dr_;
    bool inside_ = false;
    int64_t parts_ = 1, size_ = 0; // number and size of the parts of dr
    Block<S> dq_;
    Block<accumulate_t<S>> sums_;
};

} // namespace fastiter::rnn
