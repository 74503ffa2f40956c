// Column sums: a block of rows is read while in cache, with a few of its columns in registers.
#include "core/cpu/tile.hpp"
#include "dense/cpu/gemm.hpp"

namespace fastiter::dense::FASTITER_LEVEL {

// Each thread sums its own columns over all rows in order, 64 rows at a time to limit the growth of rounding errors.
// The result does not depend on the number of threads.
template <class S> void column_sums(const S* x, int64_t x_m, int64_t M, int64_t N, S* out, Team team) {
    using T = accumulate_t<S>;
    constexpr int64_t W = lanes<T>, V = 4, kLines = 64, kVectors = 64; // per block
    const Range mine = share(ceil_div(N, V * W), team);
    const int64_t end = min_of(N, mine.end * V * W);
    for (int64_t n0 = mine.begin * V * W; n0 < end; n0 += kVectors * W) {
        const int64_t vectors = min_of(kVectors, ceil_div(end - n0, W));
        vec<T> sums[kVectors] = {};
        for (int64_t m0 = 0; m0 < M; m0 += kLines)
            for (int64_t v = 0; v < vectors; v += V)
                with_count<V>(int(min_of(V, vectors - v)), [&]<int NV>() {
                    vec<T> sum[NV] = {};
                    const int64_t n = n0 + v * W;
                    for (int64_t m = m0; m < min_of(M, m0 + kLines); ++m)
                        for (int i = 0; i < NV; ++i) sum[i] += load_up_to(x + m * x_m + n + i * W, N - n - i * W);
                    for (int i = 0; i < NV; ++i) sums[v + i] += sum[i];
                });
        for (int64_t v = 0; v < vectors; ++v) store_up_to(out + n0 + v * W, sums[v], N - n0 - v * W);
    }
}

template void column_sums(const float*, int64_t, int64_t, int64_t, float*, Team);
template void column_sums(const double*, int64_t, int64_t, int64_t, double*, Team);
template void column_sums(const bf16*, int64_t, int64_t, int64_t, bf16*, Team);

const ColumnSumsKernels column_sums_kernels = {{column_sums<float>}, {column_sums<double>}, {column_sums<bf16>}};

} // namespace fastiter::dense::FASTITER_LEVEL
