#include "decode/program.hpp"
#include "decode/stepper.hpp"
#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace fastiter::decode {
namespace {

// Bytes of weights per thread that are worth its start, and that are worth a wait of all threads: what is read in
// several and in one microsecond
constexpr int64_t kWorthAThread = 1 << 16, kWorthAWait = 1 << 14;

void require(bool good, const std::string& what, const char* function = "Program") {
    if (!good) throw std::invalid_argument(function + (": " + what));
}

PlanSpec checked(PlanSpec plan) {
    require(plan.rows >= 1 && plan.rows <= kMaxRows,
            "rows must be at least 1 and at most " + text(kMaxRows) + ", got " + text(plan.rows));
    for (const BufferSpec& b : plan.buffers)
        require(b.size >= 1 && b.size <= INT32_MAX,
                "buffer '" + b.name + "' must have at least 1 number, got " + text(b.size));
    for (const StateSpec& s : plan.states)
        for (int64_t n : s.shape)
            require(n >= 1 && n <= INT32_MAX, "the axes of state '" + s.name + "' must be at least 1, got " + text(n));
    require(!plan.operations.empty(), "the plan must have operations, got none");
    return plan;
}

template <class T> Block<T> zeros(int64_t count) {
    Block<T> block(count);
    std::fill_n(block.data(), count, T(0));
    return block;
}

} // namespace

template <class T>
Stepper<T>::Stepper(PlanSpec plan)
    : plan_(with_own_outputs(checked(std::move(plan)))), layout_(plan_),
      operations_(read_operations<T>(plan_, layout_)) {
    for (size_t i = 0; i < plan_.buffers.size(); ++i)
        if (plan_.buffers[i].name == "logits") logits_ = int64_t(i);
    const Description& last = plan_.operations.back();
    const Slot& out = last.slots[size_t(place_of_out(last.kind))];
    require(logits_ >= 0 && out.buffer == logits_ && out.size == vocabulary(),
            "the last operation must write the whole buffer 'logits', got " + text(out.size) + " numbers of buffer " +
                text(out.buffer));
    for (const Item& item : operations_.items)
        scratch_size_ = std::max(scratch_size_, kernels().scratch(item, int(plan_.rows)));
    scratch_size_ = (scratch_size_ + kLine - 1) / kLine * kLine;
    shared_ = zeros<T>(layout_.shared());
    hidden_ = Block<T>(plan_.rows * operations_.hidden);
    angles_ = Block<T>(plan_.rows * operations_.angles);
    for (size_t i = 0; i < operations_.items.size(); ++i)
        if (operations_.items[i].waits) waits_.push_back(int64_t(i));
    step_.items = operations_.items.data();
    step_.count = int64_t(operations_.items.size());
    step_.shared = shared_.data();
    step_.hidden = hidden_.data();
    step_.angles = angles_.data();
    step_.own_size = layout_.own();
    step_.scratch_size = scratch_size_;
}

template <class T>
void Stepper<T>::check_tokens(const char* function, const char* name, const int64_t* tokens, int64_t count) const {
    const int64_t limit = operations_.vocabulary ? operations_.vocabulary : INT64_MAX;
    for (int64_t i = 0; i < count; ++i)
        require(tokens[i] >= 0 && tokens[i] < limit,
                std::string(name) + " must be at least 0 and below " + text(limit) + ", got " + text(tokens[i]) +
                    " at index " + text(i),
                function);
}

template <class T> void Stepper<T>::check_keys(const char* function, const Places& p, int64_t count) const {
    require(p.length >= 0 && p.length + count <= p.capacity,
            "capacity must be at least " + text(p.length + count) + ", the keys after the call, got " +
                text(p.capacity),
            function);
    for (int b = 0; p.firsts && b < p.rows; ++b)
        require(p.firsts[b] >= 0 && p.firsts[b] <= p.length,
                "firsts must be at least 0 and at most the length " + text(p.length) + ", got " + text(p.firsts[b]) +
                    " at index " + text(b),
                function);
}

template <class T>
void Stepper<T>::check(const char* function, const Places& p, const int64_t* tokens, int64_t count) const {
    require(p.rows >= 1 && p.rows <= plan_.rows,
            "tokens must number at least 1 and at most " + text(plan_.rows) + ", got " + text(p.rows), function);
    check_tokens(function, "tokens", tokens, p.rows);
    for (int b = 0; b < p.rows; ++b)
        require(p.positions[b] >= 0,
                "positions must be at least 0, got " + text(p.positions[b]) + " at index " + text(b), function);
    require(p.state_count == int64_t(plan_.states.size()),
            "states must number " + text(int64_t(plan_.states.size())) + ", got " + text(p.state_count), function);
    for (int64_t i = 0; i < p.state_count; ++i)
        require(p.states[i], "state '" + plan_.states[size_t(i)].name + "' must have an address, got 0", function);
    if (operations_.attends) check_keys(function, p, count);
}

// Cosines and sines of float32 angles
template <class T> void Stepper<T>::fill_angles(const int64_t* positions) {
    for (const RotaryTable& table : operations_.tables) {
        const int64_t pairs = int64_t(table.frequencies.size());
        for (int b = 0; b < step_.rows; ++b) {
            T* const to = angles_.data() + table.offset * step_.rows + b * 2 * pairs;
            for (int64_t i = 0; i < pairs; ++i) {
                const double angle = float(table.frequencies[size_t(i)]) * float(positions[b]);
                to[i] = T(table.scaling * std::cos(angle));
                to[pairs + i] = T(table.scaling * std::sin(angle));
            }
        }
    }
}

template <class T> void Stepper<T>::prepare(const Places& p, const int64_t* tokens) {
    static constexpr int64_t kZeros[kMaxRows] = {};
    step_.rows = p.rows;
    step_.tokens = tokens;
    step_.positions = p.positions;
    step_.firsts = p.firsts ? p.firsts : kZeros;
    step_.length = p.length;
    step_.capacity = p.capacity;
    step_.states = reinterpret_cast<T* const*>(p.states);
    fill_angles(p.positions);
}

// Returns how many threads are worth their start, and reserves the memory that each of them uses alone.
template <class T> int Stepper<T>::prepare_threads(int threads) {
    if (threads_ > 0)
        threads = threads_;
    else
        threads = threads_for(operations_.bytes, kWorthAThread + int64_t(waits_.size()) * kWorthAWait, threads);
    if (own_.size() < threads * layout_.own()) own_ = zeros<T>(threads * layout_.own());
    if (scratch_.size() < threads * scratch_size_) scratch_ = Block<T>(threads * scratch_size_);
    step_.own = own_.data();
    step_.scratch = scratch_.data();
    return threads;
}

template <class T> const T* Stepper<T>::logits_of(int64_t row) const {
    const Part part = layout_.part({logits_, 0, vocabulary()});
    return shared_.data() + part.offset + row * part.row;
}

template <class T> void Stepper<T>::step(const Places& places, const int64_t* tokens, void* logits) {
    const Use use(*this);
    check("step", places, tokens, 1);
    prepare(places, tokens);
    const int64_t V = vocabulary();
    // Does not poll for requests to stop, as stopping would lose the states.
    launch(
        [&](Team team) {
            kernels().run(step_, team);
            wait(*team.barriers, team.size);
            const Range mine = share(V, team);
            for (int64_t b = 0; b < step_.rows; ++b)
                std::copy(logits_of(b) + mine.begin, logits_of(b) + mine.end,
                          static_cast<T*>(logits) + b * V + mine.begin);
        },
        [&](int threads) { return prepare_threads(threads); });
}

template class Stepper<float>;
template class Stepper<double>;

std::unique_ptr<Program> program_of(int bits, PlanSpec plan) {
    if (bits == 32) return std::make_unique<Stepper<float>>(std::move(plan));
    return std::make_unique<Stepper<double>>(std::move(plan));
}

} // namespace fastiter::decode
