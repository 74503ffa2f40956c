// Interface of the kernels of RWKV-4's attention: plain data, declared once. Sizes: B rows, T time, D channels.
#pragma once
#include "core/cpu/by_type.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstddef>
#include <cstdint>

FASTITER_FAMILY(ssm)

namespace fastiter::ssm {

// Numbers with indices (row, time, channel), contiguous in the channels; data == nullptr: not given or not requested.
template <class T> struct WkvSteps {
    T* data = nullptr;
    int64_t row = 0, time = 0;
};

// The state of the channels: numerator and denominator, both divided by e^m, and m; each (B, D), contiguous or null
template <class T> struct WkvState {
    T* numerator = nullptr;
    T* denominator = nullptr;
    T* m = nullptr;
};

// Steps between two saved states.
constexpr int64_t kWkvTile = 32;

// For each channel, with the state (p, q, m) before a step and u = `bonus`:
//   out = (e^m p + e^(u + k) v) / (e^m q + e^(u + k))
//   m' = max(m + w, k);   p' = e^(m + w - m') p + e^(k - m') v;   q' = e^(m + w - m') q + e^(k - m')
// w and bonus are (D). `first` and `last` are the states before the first and after the last step; without `first`, p =
// q = 0 and m = -1e38. `states` (tiles of all rows, 3, D): the state before every kWkvTile-th step, if not null. All
// exponents are differences from a maximum, at most 0.
template <class T> struct Wkv {
    int64_t B = 0, time = 0, D = 0;
    const T* w = nullptr;
    const T* bonus = nullptr;
    WkvSteps<const T> k, v;
    WkvState<const T> first;
    WkvSteps<T> out;
    WkvState<T> last;
    T* states = nullptr;
};

// Gradients from d_out and dlast (each null = 0), with the states that the forward pass saved. m is a function of k, w
// and the first m like p and q, so that the gradient of the last state includes that through its scale; out does not
// depend on the scale. dw and dbonus (D) are summed over the time of each row into the workspace, then over the rows,
// in a fixed order.
template <class T> struct WkvGradient {
    Wkv<T> forward; // out and last are not read
    WkvSteps<const T> d_out;
    WkvState<const T> dlast;
    WkvSteps<T> dk, dv;
    WkvState<T> dfirst;
    T* dw = nullptr;
    T* dbonus = nullptr;
    T* workspace = nullptr; // (B, 2, D)
};

template <class T> struct WkvKernelsOf {
    void (*forward)(const Wkv<T>&, Team);
    void (*gradient)(const WkvGradient<T>&, Team);
};

using WkvKernels = ByType<WkvKernelsOf<float>, WkvKernelsOf<double>>;

FASTITER_TABLE(WkvKernels, wkv_kernels)

} // namespace fastiter::ssm
