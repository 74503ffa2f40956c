// The matrix product of floats and of doubles, and sums of columns
#include "gemm_kernel.hpp"

namespace fastiter::FASTITER_LEVEL {

// Each thread sums its own columns over all rows in order: the result does not depend on the number of threads.
template <class T> void column_sums(const T* x, int64_t x_m, int64_t M, int64_t N, T* out, Team team) {
    constexpr int W = lanes<T>, V = 4;
    Range mine = share(ceil_div(N, V * W), team.id, team.size);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
        vec<T> sum[V] = {};
        const int64_t n = j * V * W;
        for (int64_t m = 0; m < M; ++m)
            for (int v = 0; v < V; ++v)
                if (n + v * W < N) sum[v] += load_up_to(x + m * x_m + n + v * W, N - n - v * W);
        for (int v = 0; v < V; ++v)
            if (n + v * W < N) store_up_to(out + n + v * W, sum[v], N - n - v * W);
    }
}

template size_t gemm_workspace(const Gemm<float>&, int);
template size_t gemm_workspace(const Gemm<double>&, int);
template void gemm(const Gemm<float>&, Team);
template void gemm(const Gemm<double>&, Team);
template void column_sums(const float*, int64_t, int64_t, int64_t, float*, Team);
template void column_sums(const double*, int64_t, int64_t, int64_t, double*, Team);

} // namespace fastiter::FASTITER_LEVEL
