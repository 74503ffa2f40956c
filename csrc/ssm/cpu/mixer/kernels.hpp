// Interface of what one step of a whole mixer needs besides the convolution and the state: plain data, declared once.
#pragma once
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm {

// out = x w^T + bias for B rows of K numbers: x and out with row strides, w (N, K) and bias (N; null = 0) contiguous, all
// stored alike. Sums are in float32, in an order that depends on K alone.
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

// out = weight h / sqrt(mean of h^2 + eps), h = x silu(gate), for B rows of groups of `group` of the D numbers; means are
// those of a group. x and out are (B, D), the gate has a row stride, all stored alike; h / sqrt(...) is rounded, too.
struct GatedNorm {
    int64_t B = 0, D = 0, group = 1;
    double eps = 0;
    Storage storage = Storage::f32;
    const void* x = nullptr;
    const void* gate = nullptr;
    int64_t gate_row = 0;
    const void* weight = nullptr;
    void* out = nullptr;
    float* workspace = nullptr; // D numbers
};

struct MixerKernels {
    void (*product)(const RowsProduct&, Team);
    void (*norm)(const GatedNorm&);
    void (*rates)(Signal log, int64_t count, float* out); // -e^log of contiguous numbers
};

FASTITER_TABLE(MixerKernels, mixer_kernels)

} // namespace fastiter::ssm
