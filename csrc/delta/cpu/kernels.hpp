// Interface of the delta rule's kernels: plain data, declared once. Sizes: T time, M factors per step, N heads; the
// state is (K, V).
#pragma once
#include "core/cpu/strided.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(delta)

namespace fastiter::delta {

// A row is one sequence with one state. Packed arrays have one line, of which a row is steps
// [starts[row], starts[row] + lengths[row]). Without starts, a row is the first lengths[row] steps (nullptr: all T) of
// line `row`.
struct DeltaShape {
    int64_t rows = 0, T = 0, M = 1, N = 0, K = 0, V = 0;
    const int64_t* starts = nullptr;
    const int64_t* lengths = nullptr;
    // Nonzero where a sequence restarts: the state before that step counts as zero. nullptr: nowhere.
    const uint8_t* reset = nullptr;
    int64_t reset_row = 0, reset_time = 0;
    int64_t chunk = 0;  // maximum steps per chunk; 0 (forward only): step by step
    int64_t period = 1; // steps between saved states
};

// For each step t and each of its factors m = 0..M-1 in turn, with g = decay[t] where m = 0, else 1:
//     e = v[t,m] - g S^T k[t,m],   S = g S + beta[t,m] k[t,m] e^T;   after the last factor o[t] = S^T q[t].
// Indices (row, time, factor, head, unit): q (.., K) and o (.., V) have no factor axis, k is (.., K), v is (.., V).
// beta (row, time, factor, head), decay (row, time, head; null = 1), h0 (null = 0) and last (rows, N, K, V) are
// contiguous. Writes o (0 past a row's end) and last; if not null, also e (row, time, factor, head, V) and the state
// before each period, (periods of all rows, N, K, V), row by row: both contiguous. Inputs and outputs do not overlap.
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

// Backward pass, from e and the states that the forward pass saved. The cotangents `d_o` of o and `dlast` of the final
// state may be null = 0. Writes the gradients of all inputs, which are contiguous except for dq, dk and dv; ddecay only
// if there is a decay, dh0 only if it is not null. With `split`, the column blocks of a head are distributed over
// threads too; each block keeps its own sums until all have finished.
template <class T> struct DeltaBackward {
    DeltaShape shape;
    Steps<const T> q, k;
    const T* beta = nullptr;
    const T* decay = nullptr;
    const T* e = nullptr;
    const T* states = nullptr;
    Steps<const T> d_o;
    const T* dlast = nullptr;
    Steps<T> dq, dk, dv;
    T* dbeta = nullptr;
    T* ddecay = nullptr;
    T* dh0 = nullptr;
    bool split = false;
    void* workspace = nullptr;
};

template <class T> struct KernelsOf {
    int64_t (*blocks)(const DeltaShape&); // number of independent column blocks, forward
    size_t (*fwd_workspace)(const DeltaForward<T>&, int threads);
    void (*fwd)(const DeltaForward<T>&, Team);
    int64_t (*bwd_blocks)(const DeltaShape&);
    size_t (*bwd_workspace)(const DeltaBackward<T>&, int threads);
    void (*bwd)(const DeltaBackward<T>&, Team);
};

using Kernels = ByType<KernelsOf<float>, KernelsOf<double>>;

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::delta
