#include "dense/run.hpp"
#include "core/launch.hpp"
#include <type_traits>

namespace fastiter::dense {
template <class T> void run_gemm(Gemm<T> g) {
    const GemmKernels<T>& k = gemm_kernels<T>();
    constexpr double kSmall = 2e6; // flops that take about as long as starting a team
    launch(k.multiply, g, [&](int threads) {
        if (2.0 * g.M * g.N * g.K < kSmall) threads = 1;
        g.workspace = workspace.of(k.workspace(g, threads));
        return threads;
    });
}

template <class T>
void run_product(int64_t M, int64_t N, int64_t K, Matrix<T> a, Matrix<T> b, const accumulate_t<T>* bias, T* c) {
    Block<float> sums;
    Gemm<T> g;
    g.M = M;
    g.N = N;
    g.K = K;
    g.a = a.data;
    g.a_m.inner_stride = a.row;
    g.a_k.inner_stride = a.column;
    g.b = b.data;
    g.b_k.inner_stride = b.row;
    g.b_n.inner_stride = b.column;
    g.bias = bias;
    g.c_m.inner_stride = N;
    if constexpr (std::is_same_v<T, bf16>) {
        sums = Block<float>(M * N);
        g.c = sums.data();
        g.rounded = c;
    } else
        g.c = c;
    run_gemm(g);
}

template <class T> void run_column_sums(const T* x, int64_t M, int64_t N, T* out) {
    launch([&](Team team) { column_sums_kernels().of<ColumnSums<T>>().run(x, N, M, N, out, team); },
           [&](int threads) { return M * N < 100000 ? 1 : threads; });
}

#define FASTITER_INSTANTIATE(T)                                                                             \
    template void run_gemm(Gemm<T>);                                                                        \
    template void run_product(int64_t, int64_t, int64_t, Matrix<T>, Matrix<T>, const accumulate_t<T>*, T*); \
    template void run_column_sums(const T*, int64_t, int64_t, T*);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)
FASTITER_INSTANTIATE(bf16)

} // namespace fastiter::dense
