// The gradient of r, (G, N, D, D): the backward kernel sums up a small one while it runs, a wide one is a product afterwards.
#pragma once
#include "run.hpp"
#include "runner.hpp"

namespace fastiter {

template <class S> class WeightGradient {
public:
    // Tells the kernel what to add up, or where the product will look for dq. dr == nullptr: nothing is wanted.
    WeightGradient(RnnBackward<S>& p, S* dr);
    bool is_inside() const { return inside_; }
    // Of what the kernel adds up
    int64_t size_inside() const { return inside_ ? parts_ * size_ : 0; }
    // Once the kernel has taken all steps
    void finish(const RnnBackward<S>& p);

private:
    S* dr_;
    bool inside_ = false;
    int64_t parts_ = 1, size_ = 0; // of dr
    Workspace dq_, sums_;
};

} // namespace fastiter
