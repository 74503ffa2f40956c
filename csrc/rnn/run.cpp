#include "rnn/run.hpp"
#include "core/dispatch.hpp"
#include "core/launch.hpp"
#include "rnn/weight_gradient.hpp"
#include <algorithm>
#include <cstring>
#include <numeric>
#include <type_traits>

namespace fastiter {

std::vector<int64_t> by_length(const int64_t* lengths, int64_t count) {
    std::vector<int64_t> order(size_t(lengths ? count : 0));
    std::iota(order.begin(), order.end(), int64_t(0));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
    return order;
}

template <class S> void run_forward(RnnForward<S> p) {
    const RnnKernels<S>& k = kernels().rnn<S>();
    const std::vector<int64_t> order = by_length(p.shape.lengths, p.shape.B);
    if (p.shape.lengths) p.shape.order = order.data();
    auto job = [](const void* params, Team team) {
        kernels().rnn<S>().fwd(*static_cast<const RnnForward<S>*>(params), team);
    };
    run(p, job, [&](int threads) {
        p.plan = k.plan(p.shape, false, threads);
        p.workspace = workspace.of(k.fwd_workspace(p.shape, p.plan, p.x.width));
        return p.plan.threads();
    });
}

template <class S> void run_backward(RnnBackward<S> p, S* dr) {
    const RnnKernels<S>& k = kernels().rnn<S>();
    const std::vector<int64_t> order = by_length(p.shape.lengths, p.shape.B);
    if (p.shape.lengths) p.shape.order = order.data();
    auto job = [](const void* params, Team team) {
        kernels().rnn<S>().bwd(*static_cast<const RnnBackward<S>*>(params), team);
    };
    WeightGradient<S> of_r(p, dr);
    run(p, job, [&](int threads) {
        p.plan = k.plan(p.shape, true, threads);
        p.workspace = workspace.of(k.bwd_workspace(p.shape, p.plan, of_r.is_inside()));
        return p.plan.threads();
    });
    of_r.finish(p);
}

template <class T> void run_gemm(Gemm<T> g) {
    const GemmKernels<T>& k = kernels().gemm<T>();
    constexpr double kSmall = 2e6; // flops that take about as long as starting a team
    auto job = [](const void* params, Team team) {
        kernels().gemm<T>().multiply(*static_cast<const Gemm<T>*>(params), team);
    };
    run(g, job, [&](int threads) {
        if (2.0 * g.M * g.N * g.K < kSmall) threads = 1;
        g.workspace = workspace.of(k.workspace(g, threads));
        return threads;
    });
}

template <class T>
void run_product(int64_t M, int64_t N, int64_t K, Matrix<T> a, Matrix<T> b, const typename Gemm<T>::Sum* bias, T* c) {
    Workspace sums;
    Gemm<T> g;
    g.M = M, g.N = N, g.K = K;
    g.a = a.data, g.a_m.inner_stride = a.row, g.a_k.inner_stride = a.column;
    g.b = b.data, g.b_k.inner_stride = b.row, g.b_n.inner_stride = b.column;
    g.bias = bias;
    g.c_m.inner_stride = N;
    if constexpr (std::is_same_v<T, bf16>)
        g.c = static_cast<float*>(sums.of(sizeof(float) * size_t(M * N))), g.rounded = c;
    else
        g.c = c;
    run_gemm(g);
}

void run_copy(const void* from, size_t bytes, void* to) {
    struct Params {
        const char* from;
        size_t bytes;
        char* to;
    } p{static_cast<const char*>(from), bytes, static_cast<char*>(to)};
    auto job = [](const void* params, Team team) {
        const Params& p = *static_cast<const Params*>(params);
        const size_t begin = p.bytes * size_t(team.id) / size_t(team.size);
        const size_t end = p.bytes * size_t(team.id + 1) / size_t(team.size);
        std::memcpy(p.to + begin, p.from + begin, end - begin);
    };
    constexpr size_t kLeast = 1 << 20; // bytes that take longer to copy than waking a thread
    run(p, job, [&](int threads) { return int(std::clamp<size_t>(p.bytes / kLeast, 1, size_t(threads))); });
}

template <class T> void run_column_sums(const T* x, int64_t M, int64_t N, T* out) {
    struct Params {
        const T* x;
        int64_t M, N;
        T* out;
    } params{x, M, N, out};
    auto job = [](const void* x, Team team) {
        const auto& p = *static_cast<const Params*>(x);
        kernels().column_sums<T>()(p.x, p.N, p.M, p.N, p.out, team);
    };
    run(params, job, [&](int threads) { return M * N < 100000 ? 1 : threads; });
}

template void run_forward(RnnForward<float>);
template void run_forward(RnnForward<double>);
template void run_forward(RnnForward<bf16>);
template void run_backward(RnnBackward<float>, float*);
template void run_backward(RnnBackward<double>, double*);
template void run_backward(RnnBackward<bf16>, bf16*);
#define FASTITER_INSTANTIATE(T)                                                                                   \
    template void run_gemm(Gemm<T>);                                                                              \
    template void run_product(int64_t, int64_t, int64_t, Matrix<T>, Matrix<T>, const typename Gemm<T>::Sum*, T*); \
    template void run_column_sums(const T*, int64_t, int64_t, T*);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)
FASTITER_INSTANTIATE(bf16)

} // namespace fastiter
