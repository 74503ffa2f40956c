// Arguments of the kernels that advance a stack of recurrent layers by one time step. Sizes: B rows, I inputs, N heads,
// D head width, G gates, P projected outputs.
#pragma once
#include "rnn/cpu/kernels.hpp"

namespace fastiter::rnn {

// A layer with its weights prepacked. States have shape (B, N, D).
template <class T> struct StepLayer {
    int64_t inputs = 0, width = 0, projected = 0; // I, D, and P or 0
    // Panels for each vector of units: the rows of W (G N D, I), then those of R (G, N, D, D)
    T* panels = nullptr;
    T* projection = nullptr; // W_hr (P, D) in panels
    T* b_x = nullptr;        // (G, N, D), added to W x, or null
    T* b_h = nullptr;        // (G, N, D), added to R h', or null
    T* to_first = nullptr;   // (B, G, N, D), added to W x in the first step, or null
    T* h[2] = {};            // before and after the step, alternating with the step's parity
    T* others[kMaxStates - 1] = {};
    T* projected_h = nullptr; // (B, P)
};

// x (B, I) -> y; each layer's input x is the y of the layer below:
//   states = cell(W x + b_x, R h' + b_h, states');  y = h, or W_hr h
template <class T> struct StepStack {
    Cell cell = Cell::lstm;
    int64_t B = 0, N = 0;
    StepLayer<T>* layers = nullptr;
    int64_t count = 0;
    double clip_state = __builtin_inf(); // upper bound of |h|
    int64_t turn = 0;                    // number of steps so far
    const T* x = nullptr;
    int64_t x_row = 0;
    T* y = nullptr; // (B, N D) or (B, P)
};

template <class T> struct StepKernels {
    int64_t (*panels)(const StepStack<T>&, const StepLayer<T>&); // their size in numbers
    int64_t (*projection)(const StepLayer<T>&);
    void (*pack)(const StepStack<T>&, const StepLayer<T>&, const T* w_ih, const T* r, const T* w_hr);
    void (*run)(const StepStack<T>&, Team);
};

FASTITER_TABLE(StepKernels<float>, step_f32)
FASTITER_TABLE(StepKernels<double>, step_f64)

template <class T> const StepKernels<T>& step_kernels() { return table_of<StepKernels<T>>(step_f32, step_f64); }

} // namespace fastiter::rnn
