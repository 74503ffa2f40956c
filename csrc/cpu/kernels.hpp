// Every CPU kernel, declared once. Sizes: B batch, T time, N heads, G gates, D width of a head. Strides count elements.
// Kernels trust their arguments: python/fastiter/ has checked them. They allocate nothing: the caller hands in a
// workspace of the size that the kernel names.
#pragma once
#include "team.hpp"
#include <cstddef>
#include <cstdint>

namespace fastiter {

// Values with indices (row, time, gate, head, unit); units lie next to each other. data == nullptr: not wanted.
template <class T> struct Steps {
    T* data = nullptr;
    int64_t row = 0, time = 0, gate = 0, head = 0;
};

enum class Cell { elman_tanh, elman_relu, lstm, gru, slstm };
constexpr int kMaxStates = 4;

// How a recurrence is shared: heads x rows x panels threads. Threads that share the units of one head (panels > 1)
// meet once a time step; the others only before and after all steps. Results do not depend on it.
struct RnnPlan {
    int heads = 1, rows = 1, panels = 1;
    int threads() const { return heads * rows * panels; }
};

struct RnnShape {
    Cell cell = Cell::lstm;
    int64_t B = 0, T = 0, N = 0, D = 0;
    bool reverse = false;
    // Ragged batches: how long each row is, and the rows by decreasing length. nullptr: all are T long.
    const int64_t* lengths = nullptr;
    const int64_t* order = nullptr;
    // Packed batches: element (row, time) of every Steps is line offsets[time] + row of packed_rows, lines `row` apart.
    const int64_t* offsets = nullptr;
    int64_t packed_rows = 0;
};

// h[t] = cell(wx[t] + r h[t-1] + b, states[t-1]).  r (G, N, D, D), b (G, N, D) or null, state (B, N, D) each or null = 0.
// Writes every state that has a place, the values that the backward pass needs (`saved`: lstm i, f, g, o; gru r, z, n and
// R_n h + b_n; slstm a_i, a_f, z, o; elman none), and the final states.
template <class T> struct RnnForward {
    RnnShape shape;
    RnnPlan plan;
    Steps<const T> wx;
    const T* r = nullptr;
    const T* b = nullptr;
    const T* first[kMaxStates] = {};
    T* last[kMaxStates] = {};
    Steps<T> states[kMaxStates];
    Steps<T> saved;
    void* workspace = nullptr;
};

// The exact reverse of it. dstates: cotangents of all states, dlast: of the final states; each may be null = 0.
// Writes dwx (G gates), dq (the gradient of gru's R_n h + b_n, one gate; null for other cells), the gradient of each
// initial state, and db (G, N, D) if wanted. The gradient of r is a matrix product of these with h: gemm.
template <class T> struct RnnBackward {
    RnnShape shape;
    RnnPlan plan;
    const T* r = nullptr;
    const T* first[kMaxStates] = {};
    Steps<const T> states[kMaxStates];
    Steps<const T> saved;
    Steps<const T> dstates[kMaxStates];
    const T* dlast[kMaxStates] = {};
    Steps<T> dwx, dq;
    T* dfirst[kMaxStates] = {};
    T* db = nullptr;
    void* workspace = nullptr;
};

// An (outer, inner) index over rows i: element i is at (i / inner) * outer_stride + (i % inner) * inner_stride.
struct SplitIndex {
    int64_t inner = INT64_MAX, outer_stride = 0, inner_stride = 1;
    bool is_regular(int64_t count) const { return count <= inner; }
    int64_t at(int64_t i) const {
        return i < inner ? i * inner_stride : (i / inner) * outer_stride + (i % inner) * inner_stride;
    }
};

// c (M, N) = a (M, K) b (K, N) + bias (N) or null, or c += a b with `accumulate`; c has unit column stride and does not
// overlap a or b. Sums run over k in order, in blocks of fixed size: results do not depend on the number of threads.
template <class T> struct Gemm {
    int64_t M = 0, N = 0, K = 0;
    const T* a = nullptr;
    SplitIndex a_m, a_k;
    const T* b = nullptr;
    SplitIndex b_k, b_n;
    const T* bias = nullptr;
    T* c = nullptr;
    SplitIndex c_m;
    bool accumulate = false;
    void* workspace = nullptr;
};

enum class Function { exp, sigmoid, tanh, log_sigmoid };
constexpr int kFunctions = 4;

template <class T> struct KernelsOf {
    RnnPlan (*rnn_plan)(const RnnShape&, bool backward, int threads);
    size_t (*rnn_fwd_workspace)(const RnnShape&, const RnnPlan&);
    size_t (*rnn_bwd_workspace)(const RnnShape&, const RnnPlan&);
    void (*rnn_fwd)(const RnnForward<T>&, Team);
    void (*rnn_bwd)(const RnnBackward<T>&, Team);
    size_t (*gemm_workspace)(const Gemm<T>&, int threads);
    void (*gemm)(const Gemm<T>&, Team);
    // out[i] = sum over rows of x[row][i]; x (M, N) with line stride x_m
    void (*column_sums)(const T* x, int64_t x_m, int64_t M, int64_t N, T* out, Team);
    void (*function[kFunctions])(const T* x, T* out, int64_t n); // elementwise, for tests of the vector functions
    T (*read_stream)(const T* x, int64_t n);                     // sums x: the bandwidth that bench/ divides by
};

struct DeltaKernels;       // delta_kernels.hpp
struct FixedKernels;       // fixed_kernels.hpp
struct NewtonKernels;      // newton_kernels.hpp
struct QuantKernels;       // quant_kernels.hpp
struct QuantMatmulKernels; // quant_matmul_kernels.hpp
struct ScanKernels;        // scan_kernels.hpp

// One instruction set's kernels; families beside the first by the address of a table of their own.
struct Kernels {
    KernelsOf<float> f32;
    KernelsOf<double> f64;
    const DeltaKernels* delta;
    const FixedKernels* fixed;
    const NewtonKernels* newton;
    const QuantKernels* quant;
    const QuantMatmulKernels* quant_matmul;
    const ScanKernels* scan;
    template <class T> const KernelsOf<T>& of() const {
        if constexpr (sizeof(T) == 4)
            return f32;
        else
            return f64;
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

} // namespace fastiter
