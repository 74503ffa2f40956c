// Kernels of the cells with diagonal recurrent weights, where each unit is an independent recurrence:
//
//   gru    z = s(a_z h + x_z);  r = s(a_r h + x_r);  q = tanh(a_q h r + x_q);  h+ = z q + (1 - z) h
//   lstm   f = s(a_f h + x_f + p_f c);  q = tanh(a_q h + x_q);  c+ = f c + (1 - f) q
//          o = s(a_o h + x_o + p_o c+);  h+ = o tanh(c+)
//   slstm  rnn's slstm on the gates a_g h + x_g
//
// h, c: before the step; h+, c+: after it; s: the sigmoid. docs/newton/theory.md has the derivatives.
#pragma once
#include "core/cpu/strided.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(newton)

namespace fastiter::newton {

enum class ParaCell { gru, lstm, slstm };

struct ParaShape {
    ParaCell cell = ParaCell::gru;
    int64_t B = 0, T = 0, D = 0;
    bool reverse = false;
    // Ragged batches: the length of each row, and the rows by decreasing length. nullptr: all have length T.
    const int64_t* lengths = nullptr;
    const int64_t* order = nullptr;
    // Rows that are parts of lines of the arrays over time, disjoint: the line and first step of each, with `lengths`.
    // Steps that no row covers are not written. nullptr: row b is the beginning of line b.
    const int64_t* lines = nullptr;
    const int64_t* starts = nullptr;
};

// Newton's method on windows of `window` steps: a window is accepted when its residual and its last change are at most
// atol + rtol |state| everywhere, and is finished step by step if it is not accepted after max_steps passes.
struct NewtonOptions {
    int64_t window = 0, max_steps = 0;
    double rtol = 0, atol = 0;
};

// wx (B, T, G, D) with gates in the order z, r, q; f, o, q; i, f, z, o; a (G, D); p (2, D): f, o, lstm only. `first`
// (B, D) each, or null = 0. Writes `last` (B, D) each, and the states (B, T, D) of all steps if not null. Outputs do
// not overlap anything.
template <class T> struct ParaForward {
    ParaShape shape;
    Steps<const T> wx;
    const T* a = nullptr;
    const T* p = nullptr;
    const T* first[kMaxStates] = {};
    T* last[kMaxStates] = {};
    Steps<T> states[kMaxStates];
    NewtonOptions newton;
    // Newton: 2 passes + (1 if finished step by step) for each (block of units, window): see newton_blocks
    int32_t* counts = nullptr;
    void* workspace = nullptr;
};

// Backward pass, from the states of all steps; other intermediate values are recomputed. dh: cotangent of h at every
// step, dlast: of the final states; each may be null = 0. Writes dwx, the gradients of the initial states, and, if
// requested, the sums over rows and steps da (G, D) and dp (2, D).
template <class T> struct ParaBackward {
    ParaShape shape;
    Steps<const T> wx;
    const T* a = nullptr;
    const T* p = nullptr;
    const T* first[kMaxStates] = {};
    Steps<const T> states[kMaxStates];
    Steps<const T> dh;
    const T* dlast[kMaxStates] = {};
    Steps<T> dwx;
    T* dfirst[kMaxStates] = {};
    T* da = nullptr;
    T* dp = nullptr;
    void* workspace = nullptr;
};

template <class T> struct KernelsOf {
    void (*forward)(const ParaForward<T>&, Team); // step by step
    int64_t (*newton_blocks)(const ParaShape&);   // blocks of units that converge independently, row by row
    size_t (*newton_workspace)(const ParaForward<T>&, int threads);
    void (*newton)(const ParaForward<T>&, Team);
    size_t (*backward_workspace)(const ParaShape&);
    void (*backward)(const ParaBackward<T>&, Team);
};

using Kernels = ByType<KernelsOf<float>, KernelsOf<double>>;

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::newton
