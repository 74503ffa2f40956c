// All CPU kernels, in one table per instruction set. <stem>_kernels.hpp declares the arguments of each family's
// kernels. Kernels trust their arguments, which python/fastiter/ has checked. They do not allocate: the caller passes a
// workspace of the size that the kernel reports.
#pragma once
#include "dense/cpu/kernels.hpp"
#include "rnn/cpu/kernels.hpp"

namespace fastiter {

// out[i] = sum over rows of x[row][i]; x (M, N) with row stride x_m. bf16 are summed as floats and rounded once.
template <class T> using ColumnSums = void (*)(const T* x, int64_t x_m, int64_t M, int64_t N, T* out, Team);

template <class T> struct KernelsOf {
    GemmKernels<T> gemm;
    ColumnSums<T> column_sums;
    void (*function[kFunctions])(const T* x, T* out, int64_t n); // elementwise, for tests of the vector functions
    T (*read_stream)(const T* x, int64_t n);                     // sums x: the bandwidth that bench/ divides by
};

struct DeltaKernels;       // delta_kernels.hpp
struct FixedKernels;       // fixed_kernels.hpp
struct NewtonKernels;      // newton_kernels.hpp
struct QuantKernels;       // quant_kernels.hpp
struct QuantMatmulKernels; // quant_matmul_kernels.hpp
struct RelaxKernels;       // relax_kernels.hpp
struct ScanKernels;        // scan_kernels.hpp
struct StepKernels;        // rnn_step_kernels.hpp

// The kernel table of one instruction set. Each family has its own sub-table.
struct Kernels {
    KernelsOf<float> f32;
    KernelsOf<double> f64;
    const GemmKernels<bf16>* gemm_bf16;
    ColumnSums<bf16> column_sums_bf16;
    const DeltaKernels* delta;
    const FixedKernels* fixed;
    const NewtonKernels* newton;
    const QuantKernels* quant;
    const QuantMatmulKernels* quant_matmul;
    const RelaxKernels* relax;
    const RnnKernels<float>* rnn_f32;
    const RnnKernels<double>* rnn_f64;
    const RnnKernels<bf16>* rnn_bf16;
    const ScanKernels* scan;
    const StepKernels* step;
    template <class T> const KernelsOf<T>& of() const {
        if constexpr (sizeof(T) == 4)
            return f32;
        else
            return f64;
    }
    template <class T> const GemmKernels<T>& gemm() const {
        if constexpr (sizeof(T) == 2)
            return *gemm_bf16;
        else
            return of<T>().gemm;
    }
    template <class T> ColumnSums<T> column_sums() const {
        if constexpr (sizeof(T) == 2)
            return column_sums_bf16;
        else
            return of<T>().column_sums;
    }
    template <class S> const RnnKernels<S>& rnn() const {
        if constexpr (sizeof(S) == 2)
            return *rnn_bf16;
        else if constexpr (sizeof(S) == 4)
            return *rnn_f32;
        else
            return *rnn_f64;
    }
};

namespace baseline {
extern const Kernels kernels;
}
namespace v3 {
extern const Kernels kernels;
}
namespace v4 {
extern const Kernels kernels;
}
// The v4 kernels except for the bf16 products
namespace v4_bf16 {
extern const GemmKernels<bf16> gemm_bf16;
extern const RnnKernels<bf16> rnn_bf16;
} // namespace v4_bf16
namespace v4_amx {
extern const GemmKernels<bf16> gemm_bf16;
extern const RnnKernels<bf16> rnn_bf16;
} // namespace v4_amx

} // namespace fastiter
