// Interface of the kernels for one step of a whole mixer, besides the convolution and the state: plain data, declared
// once.
#pragma once
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm {

// out = x w^T + bias for B rows of K numbers: x and out with row strides, w (N, K) and bias (N; null = 0) contiguous,
// all of the same storage type. Sums are in float32, in an order that depends only on K.
struct RowsProduct {
    int64_t B = 0, N = 0, K = 0;
    Storage storage = Storage::f32;
    const void* x = nullptr;
    int64_t x_row = 0;
    const void* w = nullptr;
    const void* bias = nullptr;
    void* out = nullptr;
    int64_t out_row = 0;
};

// out = weight h / sqrt(mean of h^2 + eps), h = x silu(gate), for B rows of D numbers in groups of `group`; each mean
// is over a group. x and out are (B, D), the gate has a row stride, all of the same storage type; h / sqrt(...) is
// rounded to it too.
struct GatedNorm {
    int64_t B = 0, D = 0, group = 1;
    double eps = 0;
    Storage storage = Storage::f32;
    const void* x = nullptr;
    const void* gate = nullptr;
    int64_t gate_row = 0;
    const void* weight = nullptr;
    void* out = nullptr;
    float* workspace = nullptr; // D elements
};

struct MixerKernels {
    void (*product)(const RowsProduct&, Team);
    void (*norm)(const GatedNorm&);
    void (*rates)(Signal log, int64_t count, float* out); // -e^log for contiguous numbers
};

FASTITER_TABLE(MixerKernels, mixer_kernels)

} // namespace fastiter::ssm
