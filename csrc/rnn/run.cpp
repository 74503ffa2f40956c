#include "rnn/run.hpp"
#include "core/launch.hpp"
#include "core/rows.hpp"
#include "rnn/weight_gradient.hpp"

namespace fastiter::rnn {

template <class S> void run_forward(RnnForward<S> p) {
    const Kernels<S>& k = kernels<S>();
    const std::vector<int64_t> order = by_length(p.shape.lengths, p.shape.B);
    if (p.shape.lengths) p.shape.order = order.data();
    launch(k.fwd, p, [&](int threads) {
        p.plan = k.plan(p.shape, false, threads);
        p.workspace = workspace.of(k.fwd_workspace(p.shape, p.plan, p.x.width));
        return p.plan.threads();
    });
}

template <class S> void run_backward(RnnBackward<S> p, S* dr) {
    const Kernels<S>& k = kernels<S>();
    const std::vector<int64_t> order = by_length(p.shape.lengths, p.shape.B);
    if (p.shape.lengths) p.shape.order = order.data();
    WeightGradient<S> of_r(p, dr);
    launch(k.bwd, p, [&](int threads) {
        p.plan = k.plan(p.shape, true, threads);
        p.workspace = workspace.of(k.bwd_workspace(p.shape, p.plan, of_r.is_inside()));
        return p.plan.threads();
    });
    of_r.finish(p);
}

template void run_forward(RnnForward<float>);
template void run_forward(RnnForward<double>);
template void run_forward(RnnForward<bf16>);
template void run_backward(RnnBackward<float>, float*);
template void run_backward(RnnBackward<double>, double*);
template void run_backward(RnnBackward<bf16>, bf16*);
} // namespace fastiter::rnn
