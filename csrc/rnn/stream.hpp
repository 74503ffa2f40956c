// Stacks of recurrent layers that advance one time step at a time, with their own packed weights and states.
#pragma once
#include "core/memory.hpp"
#include "rnn/cpu/stream_kernels.hpp"
#include "rnn/run.hpp"
#include <mutex>
#include <vector>

namespace fastiter::rnn {

// The unpacked arrays of a layer, as in StepLayer; read only by the constructor.
template <class T> struct StepWeights {
    int64_t inputs = 0, width = 0, projected = 0;
    const T *w_ih = nullptr, *r = nullptr, *b_x = nullptr, *b_h = nullptr, *w_hr = nullptr, *to_first = nullptr;
};

template <class T> class StreamState {
public:
    // first: for each state (layers, B, N D), for h of projected layers (layers, B, P); null: zeros
    StreamState(Cell cell, int64_t rows, int64_t heads, double clip_state, const std::vector<StepWeights<T>>& layers,
                const T* const (&first)[kMaxStates]);
    StreamState(const StreamState&) = delete;

    int64_t rows() const { return stack_.B; }
    int64_t inputs() const { return layers_.front().inputs; }
    int64_t outputs() const { return output_of(layers_.back()); }
    int64_t width() const { return stack_.N * layers_.front().width; }
    int64_t count() const { return stack_.count; }
    int states() const { return cell_size(stack_.cell).states; }
    bool is_projected() const { return layers_.front().projected > 0; }
    bool is_long() const; // longer than it takes to release the GIL

    void step(const T* x, int64_t x_row, T* y);
    void read_states(T* const (&out)[kMaxStates]) const; // same layout as `first`
    // A step from given states, for layers without projection
    void step_from(const T* const (&first)[kMaxStates], const T* x, int64_t x_row, T* y, T* const (&last)[kMaxStates]);

private:
    int64_t output_of(const StepLayer<T>& l) const { return l.projected ? l.projected : stack_.N * l.width; }
    template <class Take> void lay_out(const StepWeights<T>& from, StepLayer<T>& layer, Take take);
    void enter(size_t i, const T* const (&first)[kMaxStates]);
    void leave(T* const (&out)[kMaxStates]) const;
    void advance(const T* x, int64_t x_row, T* y);
    int useful(int threads) const;

    StepStack<T> stack_;
    std::vector<StepLayer<T>> layers_;
    Block<> block_;
    mutable std::mutex mutex_; // serialises steps of several threads
};

} // namespace fastiter::rnn
