// The kernel table of the recurrences for one instruction set and storage type S.
#pragma once
#include "rnn/cpu/backward.hpp"
#include "rnn/cpu/recompute.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

template <class S> size_t rnn_fwd_workspace(const RnnShape& shape, const RnnPlan& plan, int64_t I) {
    return with_cell<S>(shape.cell, [&]<class C>() { return forward_workspace<S, C>(shape, plan, I); });
}
template <class S> size_t rnn_recompute_workspace(const RnnShape& shape, const RnnPlan& plan) {
    return with_cell<S>(shape.cell, [&]<class C>() { return recompute_workspace<S, C>(shape, plan); });
}
template <class S> size_t rnn_bwd_workspace(const RnnShape& shape, const RnnPlan& plan, bool adds_r) {
    return with_cell<S>(shape.cell, [&]<class C>() { return backward_workspace<S, C>(shape, plan, adds_r); });
}
template <class S> void rnn_fwd(const RnnForward<S>& p, Team team) {
    with_cell<S>(p.shape.cell, [&]<class C>() { forward<S, C>(p, team); });
}
template <class S> void rnn_recompute(const RnnForward<S>& p, Team team) {
    with_cell<S>(p.shape.cell, [&]<class C>() { recompute<S, C>(p, team); });
}
template <class S> void rnn_bwd(const RnnBackward<S>& p, Team team) {
    with_cell<S>(p.shape.cell, [&]<class C>() { backward<S, C>(p, team); });
}

template <class S>
constexpr Kernels<S> kernels_for = {
    rnn_plan<S>,          multiplies_x<S>, rnn_fwd_workspace<S>, rnn_recompute_workspace<S>,
    rnn_bwd_workspace<S>, rnn_fwd<S>,      rnn_recompute<S>,     rnn_bwd<S>,
};

} // namespace fastiter::rnn::FASTITER_LEVEL
