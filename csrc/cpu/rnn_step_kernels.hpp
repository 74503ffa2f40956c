// What the kernels take that carry a stack of recurrent layers one time step on. Sizes: B rows, I inputs, N heads, D width of a
// head, G gates, P outputs of a projection.
#pragma once
#include "rnn_kernels.hpp"

namespace fastiter {

// A layer, with what does not change from step to step made ready. States lie as (B, N, D).
template <class T> struct StepLayer {
    int64_t inputs = 0, width = 0, projected = 0; // I, D, and P or 0
    // Side by side for a vector of units: the lines of W (G N D, I), then those of R (G, N, D, D)
    T* panels = nullptr;
    T* projection = nullptr; // W_hr (P, D) in panels
    T* b_x = nullptr;        // (G, N, D) of W x, or null
    T* b_h = nullptr;        // (G, N, D) of R h', or null
    T* to_first = nullptr;   // (B, G, N, D), added to W x in the first step, or null
    T* h[2] = {};            // before and after the step, by its parity
    T* others[kMaxStates - 1] = {};
    T* projected_h = nullptr; // (B, P)
};

// x (B, I) -> y, for each layer with the y of the one before as its x:
//   states = cell(W x + b_x, R h' + b_h, states');  y = h, or W_hr h
template <class T> struct StepStack {
    Cell cell = Cell::lstm;
    int64_t B = 0, N = 0;
    StepLayer<T>* layers = nullptr;
    int64_t count = 0;
    double clip_state = __builtin_inf(); // bound of |h|
    int64_t turn = 0;                    // how many steps there were before
    const T* x = nullptr;
    int64_t x_row = 0;
    T* y = nullptr; // (B, N D) or (B, P)
};

template <class T> struct StepKernelsOf {
    int64_t (*panels)(const StepStack<T>&, const StepLayer<T>&); // how many numbers they have
    int64_t (*projection)(const StepLayer<T>&);
    void (*pack)(const StepStack<T>&, const StepLayer<T>&, const T* w_ih, const T* r, const T* w_hr);
    void (*run)(const StepStack<T>&, Team);
};

struct StepKernels {
    const StepKernelsOf<float>* f32;
    const StepKernelsOf<double>* f64;
    template <class T> const StepKernelsOf<T>& of() const {
        if constexpr (sizeof(T) == 4)
            return *f32;
        else
            return *f64;
    }
};

} // namespace fastiter
