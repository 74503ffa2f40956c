// Interface of the kernels of state-space models: plain data, declared once. Sizes: B rows, T time, D channels, G
// groups of channels, N numbers of state for each channel.
#pragma once
#include "core/cpu/by_type.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstddef>
#include <cstdint>

FASTITER_FAMILY(ssm)

namespace fastiter::ssm {

// Storage types. Arithmetic is in float64 for f64, else in float32.
enum class Storage : int { f32, f64, bf16, f16 };

// Numbers with indices (row, channel, time), with any strides, in elements. data == nullptr: not given or not
// requested.
struct Signal {
    void* data = nullptr;
    int64_t row = 0, channel = 0, time = 0;
    Storage storage = Storage::f32;
};

// Inputs of the state or weights of its outputs: (row, group, state, time), or, if `fixed`, (channel, state) in the
// type of the computation.
struct Projection {
    Signal states; // its channels are the N states
    int64_t group = 0;
    bool fixed = false;
};

// Sequence i is row i, or its first lengths[i] steps. Packed: steps [starts[i], starts[i + 1]) of row 0.
struct Sequences {
    int64_t count = 0, T = 0;
    const int64_t* lengths = nullptr;
    const int64_t* starts = nullptr;
    const uint8_t* reset = nullptr; // (row, time), nonzero: the state before this step counts as zero
    int64_t reset_row = 0, reset_time = 0;
};

struct SelectiveShape {
    Sequences sequences;
    int64_t D = 0, G = 1, N = 0;
    bool softplus = false, is_complex = false;
};

// Steps between two saved states: a tile of time.
constexpr int64_t kTile = 32;

// d = delta + delta_bias, or softplus of it;   h[t,c,n] = exp(d A[c,n]) h[t-1,c,n] + d u B[n];
// y[t,c] = sum over n of C[n] h[t,c,n] + D[c] u;   out = y, or y z sigmoid(z).
// A (D, N), D and delta_bias (D), `first` (sequences, D, N; null = 0) and `last` are contiguous. Steps past the end of
// a row's sequence have out 0. `states` (tiles of all sequences, D, N): the state before every kTile-th step, if not
// null.
template <class T> struct SelectiveScan {
    SelectiveShape shape;
    Signal u, delta, z, out;
    Projection B, C;
    const T* A = nullptr;
    const T* D = nullptr;
    const T* delta_bias = nullptr;
    const T* first = nullptr;
    T* last = nullptr;
    T* states = nullptr;
    void* workspace = nullptr;
};

// Gradients from d_out and dlast (each null = 0), with the states that the forward pass saved. du, ddelta and dz are
// (row, channel, time); dB and dC (row, group, time, N), or (D, N) if fixed, dA (D, N), dD and dbias (D) and dfirst
// (sequences, D, N) are contiguous; complex ones are pairs along N. All sums are in a fixed order, whatever the number
// of threads.
template <class T> struct SelectiveGradient {
    SelectiveScan<T> forward; // out and last are not read
    Signal d_out;
    const T* dlast = nullptr;
    Signal du, ddelta, dz;
    T* dA = nullptr;
    T* dB = nullptr;
    T* dC = nullptr;
    T* dD = nullptr;
    T* dbias = nullptr;
    T* dfirst = nullptr;
    void* workspace = nullptr;
};

// One step of B rows of H heads of P channels, with states updated in place: h = exp(d A) h + d x B, y = C h + D x,
// out = y z sigmoid(z). The signals x, dt, z, out, dt_bias and D have indices (row, head, channel), passed as (row,
// time, channel); the weights of the inputs B and of the outputs C (row, group, state) likewise. `state` has indices
// (row, head, channel, N) and is contiguous along N; A (head, channel, N) is too, or has one number for all N (A_state
// 0).
template <class T> struct StateUpdate {
    int64_t B = 0, H = 1, P = 0, N = 0, per_group = 1; // heads per group
    bool softplus = false;
    void* state = nullptr;
    Storage state_storage = Storage::f32;
    int64_t state_row = 0, state_head = 0, state_channel = 0;
    const int64_t* rows = nullptr; // row of `state` for each row; negative: no state, out is 0; nullptr: row b
    const T* A = nullptr;
    int64_t A_head = 0, A_channel = 0, A_state = 1;
    Signal x, dt, z, out, inputs, outputs, D, dt_bias; // inputs and outputs: B and C
    void* workspace = nullptr;
};

template <class T> struct SelectiveKernels {
    int64_t (*units)(const SelectiveShape&, bool backward); // units of work to share among the threads
    size_t (*workspace)(const SelectiveScan<T>&, int threads);
    void (*forward)(const SelectiveScan<T>&, Team);
    size_t (*gradient_workspace)(const SelectiveGradient<T>&, int threads);
    void (*gradient)(const SelectiveGradient<T>&, Team);
    size_t (*state_update_workspace)(const StateUpdate<T>&, int threads);
    void (*state_update)(const StateUpdate<T>&, Team);
};

using Kernels = ByType<SelectiveKernels<float>, SelectiveKernels<double>>;

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::ssm
