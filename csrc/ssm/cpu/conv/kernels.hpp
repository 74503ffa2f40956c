// Interface of the kernels of the causal convolution: plain data, declared once. Sizes as in kernels.hpp; W taps.
#pragma once
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm {

struct ConvShape {
    Sequences sequences; // reset is not read
    int64_t D = 0, W = 1;
    bool silu = false;
    const int32_t* seq_idx = nullptr; // (rows, T), contiguous: the label of each step's sequence, or nullptr
};

// pre[t] = bias + sum over j of weight[j] x[t - W + 1 + j];   out = pre, or pre sigmoid(pre) for silu.
// Inputs before the start are `first` (sequences, D, W - 1), or 0 if it is not given; `last`, likewise, are the last
// W - 1 inputs. weight (D, W) and bias (D; null = 0) are contiguous. Steps past the end of a row's sequence have out 0.
// With seq_idx, inputs with a label other than the step's own count as 0, and steps with a negative label have out 0;
// first and last are not given then.
template <class T> struct CausalConv {
    ConvShape shape;
    Signal x, out;
    const T* weight = nullptr;
    const T* bias = nullptr;
    Signal first, last;
    void* workspace = nullptr;
};

// Gradients from d_out and dlast (each without data = 0). dx is (row, channel, time), dfirst (sequence, channel, W -
// 1); dweight (D, W) and dbias (D) are contiguous. Sums are in a fixed order, whatever the number of threads.
template <class T> struct CausalConvGradient {
    CausalConv<T> forward; // out and last are not read
    Signal d_out, dlast, dx, dfirst;
    T* dweight = nullptr;
    T* dbias = nullptr;
    void* workspace = nullptr;
};

// L steps of B rows; `state` (rows, D, N) with N >= W - 1 holds the inputs before them and is updated in place: the
// last N inputs, or, with `positions`, a ring buffer in which the next input goes to position[b] modulo N.
template <class T> struct ConvUpdate {
    int64_t B = 0, D = 0, L = 1, W = 1, N = 0;
    bool silu = false;
    Signal x, out, state;
    Signal weight, bias; // per channel: the taps, one number
    const int64_t* positions = nullptr;
    const int64_t* rows = nullptr; // row of `state` for each row; negative: no state, out is 0; nullptr: row b
    void* workspace = nullptr;
};

template <class T> struct ConvKernels {
    int64_t (*units)(const CausalConv<T>&); // units of work to share among the threads
    size_t (*workspace)(const CausalConv<T>&, int threads);
    void (*forward)(const CausalConv<T>&, Team);
    int64_t (*gradient_units)(const CausalConvGradient<T>&);
    size_t (*gradient_workspace)(const CausalConvGradient<T>&, int threads);
    void (*gradient)(const CausalConvGradient<T>&, Team);
    size_t (*update_workspace)(const ConvUpdate<T>&, int threads);
    void (*update)(const ConvUpdate<T>&, Team);
};

using CausalConvKernels = ByType<ConvKernels<float>, ConvKernels<double>>;

FASTITER_TABLE(CausalConvKernels, conv_kernels)

} // namespace fastiter::ssm
