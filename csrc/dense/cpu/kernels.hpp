// Arguments of the matrix product and of the sums of columns
#pragma once
#include "core/cpu/bf16.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstddef>
#include <cstdint>

FASTITER_FAMILY(dense)

namespace fastiter::dense {

// An index (outer, inner) over items i: item i is at (i / inner) * outer_stride + (i % inner) * inner_stride.
struct SplitIndex {
    int64_t inner = INT64_MAX, outer_stride = 0, inner_stride = 1;
    bool is_regular(int64_t count) const { return count <= inner; }
    int64_t at(int64_t i) const {
        return i < inner ? i * inner_stride : (i / inner) * outer_stride + (i % inner) * inner_stride;
    }
};

// c (M, N) = a (M, K) b (K, N) + bias (N) or null, or c += a b with `accumulate`. c has unit column stride and does not
// overlap a or b. a is contiguous along its rows or its k, b along its columns or its k. Sums run over k in order, in
// blocks of fixed size: results do not depend on the number of threads. bf16 are accumulated as floats, two k at a
// time. If `rounded` is not null, complete sums go there, in c's layout, and c only holds partial sums.
template <class T> struct Gemm {
    using Sum = accumulate_t<T>;
    int64_t M = 0, N = 0, K = 0;
    const T* a = nullptr;
    SplitIndex a_m, a_k;
    const T* b = nullptr;
    SplitIndex b_k, b_n;
    const T* const* b_lines = nullptr; // address of each of b's K lines, instead of b and b_k; nullptr: zeros
    const Sum* bias = nullptr;
    Sum* c = nullptr;
    T* rounded = nullptr;
    SplitIndex c_m;
    bool accumulate = false;
    void* workspace = nullptr;
};

template <class T> struct GemmKernels {
    size_t (*workspace)(const Gemm<T>&, int threads);
    void (*multiply)(const Gemm<T>&, Team);
};

// out[i] = sum over rows of x[row][i]; x (M, N) with row stride x_m. bf16 are summed as floats and rounded once.
template <class T> struct ColumnSums {
    void (*run)(const T* x, int64_t x_m, int64_t M, int64_t N, T* out, Team);
};

using ColumnSumsKernels = ByType<ColumnSums<float>, ColumnSums<double>, ColumnSums<bf16>>;

FASTITER_TABLE(GemmKernels<float>, gemm_f32)
FASTITER_TABLE(GemmKernels<double>, gemm_f64)
FASTITER_TABLE_BF16(GemmKernels<bf16>, gemm_bf16)
FASTITER_TABLE(ColumnSumsKernels, column_sums_kernels)

template <class T> const GemmKernels<T>& gemm_kernels() {
    return table_of<GemmKernels<T>>(gemm_f32, gemm_f64, gemm_bf16);
}

} // namespace fastiter::dense
