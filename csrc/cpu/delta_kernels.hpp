// The kernels of the delta rule, declared once: plain data. Sizes: T time, M factors a step, N heads, K and V the lines
// and columns of a state.
#pragma once
#include "steps.hpp"
#include "team.hpp"

namespace fastiter {

// A row is one sequence with one state: steps [starts[row], starts[row] + lengths[row]) of the only line of packed
// arrays; without starts, the first lengths[row] steps (nullptr: all T) of line `row`.
struct DeltaShape {
    int64_t rows = 0, T = 0, M = 1, N = 0, K = 0, V = 0;
    const int64_t* starts = nullptr;
    const int64_t* lengths = nullptr;
    // Where a step begins anew: the state from the step before counts as zero. nullptr: nowhere.
    const uint8_t* reset = nullptr;
    int64_t reset_row = 0, reset_time = 0;
    int64_t chunk = 0;  // the most steps that are taken at a time; 0 (forward only): step by step
    int64_t period = 1; // steps from one saved state to the next
};

// For each step t and each of its factors m = 0..M-1 in turn, with g = decay[t] where m = 0, else 1:
//     e = v[t,m] - g S^T k[t,m],   S = g S + beta[t,m] k[t,m] e^T;   after the last factor o[t] = S^T q[t].
// Indices (row, time, factor, head, unit): q (.., K) and o (.., V) have no factor, k is (.., K), v is (.., V). beta (row,
// time, factor, head) and decay (row, time, head; null = 1) are contiguous, h0 (null = 0) and last (rows, N, K, V) too.
// Writes o (0 after a row's last step), last, and where they have a place e (row, time, factor, head, V) and the states
// before each period, (line, N, K, V), row by row, the steps of a row first: contiguous. Inputs and outputs do not overlap.
template <class T> struct DeltaForward {
    DeltaShape shape;
    Steps<const T> q, k, v;
    const T* beta = nullptr;
    const T* decay = nullptr;
    const T* h0 = nullptr;
    Steps<T> o;
    T* last = nullptr;
    T* e = nullptr;
    T* states = nullptr;
    void* workspace = nullptr;
};

// The exact reverse, from e and the states that the forward pass saved. o's cotangent `d_o` and the final state's `dlast` may be null
// = 0. Writes the contiguous gradients of all inputs; ddecay where decay is there, dh0 where it has a place.
// split: blocks of columns of one head are shared out too, and their sums lie apart until all are there.
template <class T> struct DeltaBackward {
    DeltaShape shape;
    Steps<const T> q, k;
    const T* beta = nullptr;
    const T* decay = nullptr;
    const T* e = nullptr;
    const T* states = nullptr;
    Steps<const T> d_o;
    const T* dlast = nullptr;
    T* dq = nullptr;
    T* dk = nullptr;
    T* dv = nullptr;
    T* dbeta = nullptr;
    T* ddecay = nullptr;
    T* dh0 = nullptr;
    bool split = false;
    void* workspace = nullptr;
};

template <class T> struct DeltaKernelsOf {
    int64_t (*blocks)(const DeltaShape&); // of columns that are independent of each other, forward
    size_t (*fwd_workspace)(const DeltaForward<T>&, int threads);
    void (*fwd)(const DeltaForward<T>&, Team);
    int64_t (*bwd_blocks)(const DeltaShape&);
    size_t (*bwd_workspace)(const DeltaBackward<T>&, int threads);
    void (*bwd)(const DeltaBackward<T>&, Team);
};

struct DeltaKernels {
    DeltaKernelsOf<float> f32;
    DeltaKernelsOf<double> f64;
    template <class T> const DeltaKernelsOf<T>& of() const {
        if constexpr (sizeof(T) == 4)
            return f32;
        else
            return f64;
    }
};

} // namespace fastiter
