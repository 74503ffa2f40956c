#include "rnn/stream.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <utility>

namespace fastiter::rnn {
namespace {

// Bytes of weights per thread: about 25 microseconds of reading. With fewer, two threads gain less, and they are slower
// than one on a machine where one of them has to wait for a core or sleeps between steps.
constexpr int64_t kWorthAThread = 2 << 20;
constexpr int64_t kLong = 128 << 10;

template <class T> void copy(const T* from, int64_t count, T* to) {
    if (from) std::copy_n(from, count, to);
}

} // namespace

// Assigns the layer's arrays; a `take` that only counts returns addresses from nullptr on.
template <class T>
template <class Take>
void StreamState<T>::lay_out(const StepWeights<T>& from, StepLayer<T>& layer, Take take) {
    const StepKernels<T>& k = step_kernels<T>();
    const CellSize cell = cell_size(stack_.cell);
    const int64_t units = stack_.N * from.width, lines = stack_.B * units;
    layer.inputs = from.inputs;
    layer.width = from.width;
    layer.projected = from.projected;
    layer.panels = take(k.panels(stack_, layer));
    if (from.b_x) layer.b_x = take(cell.gates * units);
    if (from.b_h) layer.b_h = take(cell.gates * units);
    if (from.to_first) layer.to_first = take(cell.gates * lines);
    for (T*& h : layer.h) h = take(lines);
    for (int s = 1; s < cell.states; ++s) layer.others[s - 1] = take(lines);
    if (!from.projected) return;
    layer.projection = take(k.projection(layer));
    layer.projected_h = take(stack_.B * from.projected);
}

template <class T>
StreamState<T>::StreamState(Cell cell, int64_t rows, int64_t heads, double clip_state,
                            const std::vector<StepWeights<T>>& layers, const T* const (&first)[kMaxStates])
    : layers_(layers.size()) {
    stack_.cell = cell;
    stack_.B = rows;
    stack_.N = heads;
    stack_.clip_state = clip_state;
    stack_.layers = layers_.data();
    stack_.count = int64_t(layers.size());
    const int64_t gates = cell_size(cell).gates;
    int64_t bytes = 0;
    auto take = [&](int64_t count) {
        constexpr int64_t kLine = 64 / sizeof(T);
        const int64_t used = std::exchange(bytes, bytes + (count + kLine - 1) / kLine * 64);
        return reinterpret_cast<T*>(block_.data() + used);
    };
    for (size_t i = 0; i < layers.size(); ++i) lay_out(layers[i], layers_[i], take);
    block_ = Block(std::exchange(bytes, 0));
    for (size_t i = 0; i < layers.size(); ++i) {
        const StepWeights<T>& from = layers[i];
        StepLayer<T>& layer = layers_[i];
        lay_out(from, layer, take);
        const int64_t units = heads * from.width;
        step_kernels<T>().pack(stack_, layer, from.w_ih, from.r, from.w_hr);
        copy(from.b_x, gates * units, layer.b_x);
        copy(from.b_h, gates * units, layer.b_h);
        copy(from.to_first, gates * rows * units, layer.to_first);
        enter(i, first);
    }
}

// Sets the state before the first step. The given h of a projected layer is in to_first.
template <class T> void StreamState<T>::enter(size_t i, const T* const (&first)[kMaxStates]) {
    StepLayer<T>& layer = layers_[i];
    const int64_t rows = stack_.B, lines = rows * stack_.N * layer.width;
    auto fill = [&](const T* from, int64_t count, T* to) {
        std::fill_n(to, count, T(0));
        copy(from ? from + int64_t(i) * count : nullptr, count, to);
    };
    fill(layer.projected ? nullptr : first[0], lines, layer.h[stack_.turn & 1]);
    if (layer.projected) fill(first[0], rows * layer.projected, layer.projected_h);
    for (int s = 1; s < states(); ++s) fill(first[s], lines, layer.others[s - 1]);
}

template <class T> void StreamState<T>::leave(T* const (&out)[kMaxStates]) const {
    for (int64_t i = 0; i < stack_.count; ++i) {
        const StepLayer<T>& layer = layers_[size_t(i)];
        const int64_t lines = stack_.B * width(), shown = stack_.B * output_of(layer);
        copy<T>(layer.projected ? layer.projected_h : layer.h[stack_.turn & 1], shown, out[0] + i * shown);
        for (int s = 1; s < states(); ++s) copy<T>(layer.others[s - 1], lines, out[s] + i * lines);
    }
}

template <class T> bool StreamState<T>::is_long() const { return block_.size() * stack_.B > kLong; }

// Several rows share the weights that are read.
template <class T> int StreamState<T>::useful(int threads) const {
    return threads_for(block_.size() * (stack_.B + 1) / 2, kWorthAThread, threads);
}

template <class T> void StreamState<T>::advance(const T* x, int64_t x_row, T* y) {
    stack_.x = x;
    stack_.x_row = x_row;
    stack_.y = y;
    // Does not poll for requests to stop, as stopping would lose the state.
    launch([&](Team team) { step_kernels<T>().run(stack_, team); }, [&](int threads) { return useful(threads); });
    ++stack_.turn;
    for (StepLayer<T>& layer : layers_) layer.to_first = nullptr;
}

template <class T> void StreamState<T>::step(const T* x, int64_t x_row, T* y) {
    std::lock_guard lock(mutex_);
    advance(x, x_row, y);
}

template <class T> void StreamState<T>::read_states(T* const (&out)[kMaxStates]) const {
    std::lock_guard lock(mutex_);
    leave(out);
}

template <class T>
void StreamState<T>::step_from(const T* const (&first)[kMaxStates], const T* x, int64_t x_row, T* y,
                               T* const (&last)[kMaxStates]) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < layers_.size(); ++i) enter(i, first);
    advance(x, x_row, y);
    leave(last);
}

template class StreamState<float>;
template class StreamState<double>;

} // namespace fastiter::rnn
