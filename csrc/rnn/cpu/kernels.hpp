// Arguments of the `rnn` kernels. Sizes: B batch, T time, N heads, G gates, D head width.
#pragma once
#include "core/cpu/bf16.hpp"
#include "core/cpu/strided.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(rnn)

namespace fastiter::rnn {

enum class Cell { elman_tanh, elman_relu, lstm, gru, slstm };

struct CellSize {
    int64_t gates;
    int states;
    int64_t saved;  // values per step that the backward pass needs besides the states
    bool separates; // whether the gradients of W x and of R h' + b differ, so that their biases cannot be added
};
constexpr CellSize kCells[] = {{1, 1, 0, false}, {1, 1, 0, false}, {4, 2, 4, false}, {3, 1, 4, true}, {4, 4, 4, false}};
__attribute__((always_inline)) inline constexpr CellSize cell_size(Cell cell) { return kCells[int(cell)]; }

// Partition of a recurrence into heads x rows x panels threads. Threads that share the units of one head (panels > 1)
// synchronise every time step, the others only before and after all steps. Results do not depend on it.
struct RnnPlan {
    int heads = 1, rows = 1, panels = 1;
    int threads() const { return heads * rows * panels; }
};

struct RnnShape {
    Cell cell = Cell::lstm;
    int64_t B = 0, T = 0, N = 0, D = 0;
    bool reverse = false;
    // Ragged batches: the length of each row, and the rows by decreasing length. nullptr: all have length T.
    const int64_t* lengths = nullptr;
    const int64_t* order = nullptr;
    // Packed batches: element (row, time) of every Steps is line offsets[time] + row of packed_rows, with line stride
    // `row`.
    const int64_t* offsets = nullptr;
    int64_t packed_rows = 0;
    // Concatenated sequences: element (row, time) of every Steps is step starts[row] + time of packed_rows.
    const int64_t* starts = nullptr;
    // True where the states before a step are reset to 0: (B, T) with row stride reset_row, or (packed_rows) with
    // starts
    const bool* reset = nullptr;
    int64_t reset_row = 0;
    // Whether the states other than h are rounded to h's storage type after each step, as h is
    bool rounds_states = false;
    // Whether r h is rounded to h's storage type, too, before b is added to it
    bool rounds_products = false;
    // Bounds of |h| after each step, and of the gradient of h passed back from each step
    double clip_state = __builtin_inf(), clip_grad = clip_state;

    bool is_reset(int64_t row, int64_t t) const { return reset && reset[(starts ? starts[row] : row * reset_row) + t]; }
};

// Number of groups of rows with separate sums of the gradient of r. Threads are distributed over heads before rows, so
// that with several heads one group suffices.
inline int parts_of_rows(const RnnShape& s) { return s.N == 1 && s.B > 1 ? 2 : 1; }

// One item per state. h is stored in the array type, the others in the type of the computation.
template <class H, class Other> struct PerState {
    H h{};
    Other others[kMaxStates - 1]{};
};

// Numbers are stored as S. bf16 is computed in float and rounded on storing: h after each step (with rounds_states also
// the other states, although they are floats), and the gradients of the gates before they are used. b has the type of
// the accumulators.
// h[t] = cell(wx[t] + r h[t-1] + b, states[t-1]).  r (G, N, D, D), b (G, N, D) or null, state (B, N, D) or null = 0.
// Instead of wx, the kernel can compute W x + b_x from the inputs x with W (G * N * D, I), where multiplies_x allows
// it: bitwise the same, but without storing it. Not for packed or ragged rows.
// Writes every state whose array is present, the values that the backward pass needs (`saved`: lstm i, f, g, o; gru r,
// z, n and R_n h + b_n; slstm a_i, a_f, z, o; elman none), and the final states.
template <class S> struct RnnForward {
    using T = accumulate_t<S>;
    RnnShape shape;
    RnnPlan plan;
    Steps<const S> wx;
    struct {
        const S* data = nullptr;
        int64_t row = 0, time = 0, width = 0; // width: I
        const S* w = nullptr;
        const T* b = nullptr;
    } x;
    const S* r = nullptr;
    const T* b = nullptr;
    PerState<const S*, const T*> first;
    PerState<S*, T*> last;
    PerState<Steps<S>, Steps<T>> states;
    Steps<T> saved;
    Steps<const S> known_h; // h of all steps, only for `recompute`
    void* workspace = nullptr;
    bool is_packed = false; // r and b are already packed in the workspace
};

// Padding, in numbers, after a row's sums of db: the next row may be another thread's, and hardware prefetching would
// touch it.
constexpr int64_t kFreeAfterDb = 128;

// Backward pass. dstates: cotangents of all states, dlast: of the final states; each may be null = 0. Writes dwx (G
// gates), dq (the gradient of gru's R_n h + b_n, one gate; null for other cells), the gradient of each initial state,
// and db (G, N, D) if requested. The gradient of r is a matrix product of these with h: csrc/rnn/weight_gradient.hpp
// decides whether the kernel accumulates it in dr while both are in cache.
template <class S> struct RnnBackward {
    using T = accumulate_t<S>;
    RnnShape shape;
    RnnPlan plan;
    const S* r = nullptr;
    PerState<const S*, const T*> first;
    PerState<Steps<const S>, Steps<const T>> states;
    Steps<const T> saved;
    PerState<Steps<const S>, Steps<const T>> dstates;
    PerState<const S*, const T*> dlast;
    Steps<S> dwx, dq;
    PerState<S*, T*> dfirst;
    // Replace dlast.h and dfirst.h between two chunks of time, where the gradient of h must not be rounded
    const T* dh_after = nullptr;
    T* dh_before = nullptr;
    S* db = nullptr;
    // (N, B, G times D rounded up to vectors, plus padding): initial sums of db for each row, which this chunk adds to
    T* db_rows = nullptr;
    // (parts of rows, G, N, D, D) or null: accumulates the gradient of r. In chunks of time: the number of steps that
    // follow, and the partial sums of the step block that the previous chunk did not finish.
    T* dr = nullptr;
    bool dr_is_clear = false; // otherwise the kernel clears it first
    T* dr_block = nullptr;
    int64_t steps_after = 0;
    void* workspace = nullptr;
    bool is_packed = false; // r is already packed in the workspace
};

template <class S> struct Kernels {
    RnnPlan (*plan)(const RnnShape&, bool backward, int threads);
    // Whether fwd accepts x with I numbers instead of wx
    bool (*multiplies_x)(const RnnShape&, int64_t I);
    size_t (*fwd_workspace)(const RnnShape&, const RnnPlan&, int64_t I); // I: 0 if wx is given
    size_t (*recompute_workspace)(const RnnShape&, const RnnPlan&);
    size_t (*bwd_workspace)(const RnnShape&, const RnnPlan&, bool adds_r);
    void (*fwd)(const RnnForward<S>&, Team);
    // Writes only `saved` and the states other than h, from known_h; bitwise equal to fwd.
    void (*recompute)(const RnnForward<S>&, Team);
    void (*bwd)(const RnnBackward<S>&, Team);
};

FASTITER_TABLE(Kernels<float>, kernels_f32)
FASTITER_TABLE(Kernels<double>, kernels_f64)
FASTITER_TABLE_BF16(Kernels<bf16>, kernels_bf16)

template <class S> const Kernels<S>& kernels() { return table_of<Kernels<S>>(kernels_f32, kernels_f64, kernels_bf16); }

} // namespace fastiter::rnn
