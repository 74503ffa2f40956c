// The scans h[t] = A[t] h[t-1] + x[t]: A is diagonal (linear scan) or consists of K x K blocks (block scan). Sizes: B
// sequences, T time, D numbers per step, in D / K groups for a block scan. Strides count real elements in memory, so
// that a complex number counts as two.
#pragma once
#include "core/cpu/bf16.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstddef>
#include <cstdint>

FASTITER_FAMILY(scan)

namespace fastiter::scan {

// Values with indices (row, time, number), contiguous within a step. data == nullptr: not requested.
template <class S> struct Lines {
    S* data = nullptr;
    int64_t row = 0, time = 0;
};

struct ScanShape {
    int64_t B = 0, T = 0, D = 0;
    bool complex = false, reverse = false;
    // Number of steps of each sequence; the rest of its row is padding. nullptr: T.
    const int64_t* lengths = nullptr;
    // Packed: all sequences are in row 0, and sequence s is steps [starts[s], starts[s + 1]). (B + 1), or nullptr.
    const int64_t* starts = nullptr;
    // (row, time), 1: the state before this step is dropped. nullptr: nowhere.
    Lines<const uint8_t> reset;
};

// h[t] = a[t] * h[t-1] + x[t] forward in time, or backward with `reverse`; products and sums are rounded separately.
// `first` (B, D) is the state before the first step, nullptr = 0; `last` (B, D) the state after the last one. Padding
// of h is 0. a may be broadcast by strides of 0. h may alias x or a (in place). `copy` gets a copy of h, if it is not
// null. If h is null, only `last` is computed.
template <class S> struct LinearScan {
    using T = accumulate_t<S>;
    ScanShape shape;
    Lines<const S> a, x;
    const T* first = nullptr;
    Lines<S> h;
    T* last = nullptr;
    Lines<S> copy;
};

// Backward pass: l[t] = dh[t] + conj(a[t+1]) l[t+1], starting from dlast; dx = l, da[t] = conj(h[t-1]) l[t], and dfirst
// (B, D) is conj(a) l of the first step. dh and dlast may be null = 0. dx may alias dh. If a is broadcast, da is
// summed: over time and rows into da_sum, or over one of the two, whose stride in da_sum is then 0; each in a fixed
// order, whatever the number of threads. At most one of da and da_sum is requested.
template <class S> struct LinearScanGradient {
    using T = accumulate_t<S>;
    ScanShape shape;
    Lines<const S> a, h, dh;
    const T* first = nullptr;
    const T* dlast = nullptr;
    Lines<S> dx, da;
    Lines<T> da_sum;
    T* dfirst = nullptr;
    void* workspace = nullptr;
};

// h[t] = A[t] h[t-1] + x[t], where A (B, T, D / K, K, K) has a row-major matrix for each group of K numbers: h_i = A_i0
// h_0 + A_i1 h_1 + ... + x_i, in this order, each operation rounded. Otherwise as the linear scan.
template <class T> struct BlockScan {
    ScanShape shape;
    int64_t K = 1; // 1 to 16
    Lines<const T> A, x;
    const T* first = nullptr;
    Lines<T> h;
    T* last = nullptr;
};

// l[t] = dh[t] + A[t+1]^H l[t+1]: dx = l, dA[t] = l[t] h[t-1]^H, dfirst = A^H l. Otherwise as the linear scan.
template <class T> struct BlockScanGradient {
    ScanShape shape;
    int64_t K = 1;
    Lines<const T> A, h, dh;
    const T* first = nullptr;
    const T* dlast = nullptr;
    Lines<T> dx, dA, dA_sum;
    T* dfirst = nullptr;
    void* workspace = nullptr;
};

template <class S> struct LinearScanKernels {
    void (*forward)(const LinearScan<S>&, Team);
    size_t (*gradient_workspace)(const LinearScanGradient<S>&);
    void (*gradient)(const LinearScanGradient<S>&, Team);
};

template <class T> struct BlockScanKernels {
    void (*forward)(const BlockScan<T>&, Team);
    size_t (*gradient_workspace)(const BlockScanGradient<T>&);
    void (*gradient)(const BlockScanGradient<T>&, Team);
};

using Kernels = ByType<LinearScanKernels<float>, LinearScanKernels<double>, LinearScanKernels<bf16>,
                       BlockScanKernels<float>, BlockScanKernels<double>>;

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::scan
