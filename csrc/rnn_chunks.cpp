// Recurrences by chunks of time, so that the backward pass needs the gates of one chunk only. Each chunk is a call of the same
// kernels; they find r packed from the chunk before.
#include "dispatch.hpp"
#include "run.hpp"
#include "runner.hpp"
#include <algorithm>
#include <utility>

namespace fastiter {
namespace {

// Steps [begin, begin + shape.T) of a whole
struct Part {
    int64_t begin;
    RnnShape shape;
    std::vector<int64_t> lengths, order;

    Part(const RnnShape& whole, int64_t begin_, int64_t count) : begin(begin_), shape(whole) {
        shape.T = count;
        if (whole.reset) shape.reset += begin;
        if (!whole.lengths) return;
        lengths.resize(size_t(whole.B));
        for (size_t i = 0; i < lengths.size(); ++i)
            lengths[i] = std::clamp<int64_t>(whole.lengths[i] - begin, 0, count);
        order = by_length(lengths.data(), whole.B);
        shape.lengths = lengths.data(), shape.order = order.data();
    }
    template <class T> Steps<T> of(Steps<T> s) const {
        if (s.data) s.data += begin * s.time;
        return s;
    }
};

// Calls f(chunk, part) in the order of the computation, or against it.
template <class F> void for_each_part(const RnnShape& whole, int64_t every, bool backward, F f) {
    const int64_t count = std::max<int64_t>(1, (whole.T + every - 1) / every);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t chunk = whole.reverse != backward ? count - 1 - i : i, begin = chunk * every;
        f(chunk, Part(whole, begin, std::min(every, whole.T - begin)));
    }
}

// A kernel that is called for one chunk after the other, and packs r for the first
template <class Params> struct Repeated {
    const RnnShape& whole;
    Workspace space{};
    void* packed = nullptr;

    template <class Kernels, class Bytes> void run(Params& p, const Kernels& k, bool backward, Job job, Bytes bytes) {
        fastiter::run(p, job, [&](int threads) {
            p.plan = k.rnn_plan(whole, backward, threads);
            p.workspace = space.of(bytes(whole, p.plan));
            p.is_packed = p.workspace == packed;
            return p.plan.threads();
        });
        packed = p.workspace;
    }
};

template <class T> struct RepeatedForward : Repeated<RnnForward<T>> {
    void operator()(RnnForward<T>& p) {
        const KernelsOf<T>& k = kernels().of<T>();
        auto job = [](const void* x, Team team) {
            kernels().of<T>().rnn_fwd(*static_cast<const RnnForward<T>*>(x), team);
        };
        this->run(p, k, false, job, k.rnn_fwd_workspace);
    }
};

template <class T> struct RepeatedBackward : Repeated<RnnBackward<T>> {
    void operator()(RnnBackward<T>& p) {
        const KernelsOf<T>& k = kernels().of<T>();
        auto job = [](const void* x, Team team) {
            kernels().of<T>().rnn_bwd(*static_cast<const RnnBackward<T>*>(x), team);
        };
        this->run(p, k, true, job, k.rnn_bwd_workspace);
    }
};

// The states between two chunks, those that `chunk` begins with or ends with
template <class T> struct Boundaries {
    const Chunks<T>& chunks;
    const RnnShape& whole;
    const int64_t last = std::max<int64_t>(1, (whole.T + chunks.every - 1) / chunks.every) - 1;

    bool begins(int64_t chunk) const { return chunk == (whole.reverse ? last : 0); }
    bool ends(int64_t chunk) const { return chunk == (whole.reverse ? 0 : last); }
    T* entering(int state, int64_t chunk) const { return at(state, whole.reverse ? chunk : chunk - 1); }
    T* leaving(int state, int64_t chunk) const { return at(state, whole.reverse ? chunk - 1 : chunk); }
    T* at(int state, int64_t i) const { return chunks.kept[state] + i * whole.B * whole.N * whole.D; }
};

// What a chunk computes again, in memory of its own
template <class T> struct Scratch {
    static constexpr size_t kLine = 64 / sizeof(T);
    Workspace space{};
    Steps<T> states[kMaxStates], saved;
    T *last[kMaxStates], *carried[kMaxStates], *db_rows;

    Scratch(const RnnShape& s, int64_t every, const CellSize& cell) {
        const int64_t unit = s.N * s.D, B = s.B, T_ = std::min(every, s.T), padded = (s.D + kLine - 1) / kLine * kLine;
        const int64_t rows = B * s.N * cell.gates * padded;
        const int64_t steps = B * T_ * unit;
        T* data = static_cast<T*>(
            space.of(sizeof(T) * size_t(steps * (cell.states - 1 + cell.saved) + 2 * cell.states * B * unit + rows)));
        auto take = [&](int64_t count) { return std::exchange(data, data + count); };
        db_rows = take(rows);
        std::fill_n(db_rows, rows, T(0));
        for (int k = 0; k < cell.states; ++k) {
            last[k] = take(B * unit), carried[k] = take(B * unit);
            if (k > 0) states[k] = {take(steps), unit, B * unit, 0, s.D};
        }
        if (cell.saved) saved = {take(steps * cell.saved), cell.saved * unit, B * cell.saved * unit, unit, s.D};
    }
};

} // namespace

template <class T> void run_forward_in_chunks(const RnnForward<T>& p, const Chunks<T>& chunks) {
    const Boundaries<T> between{chunks, p.shape};
    RepeatedForward<T> forward{{p.shape}};
    const int states = cell_size(p.shape.cell).states;
    for_each_part(p.shape, chunks.every, false, [&](int64_t chunk, const Part& part) {
        RnnForward<T> f = p;
        f.shape = part.shape;
        f.wx = part.of(p.wx);
        for (int k = 0; k < states; ++k) {
            f.states[k] = part.of(p.states[k]);
            if (!between.begins(chunk)) f.first[k] = between.entering(k, chunk);
            if (!between.ends(chunk)) f.last[k] = between.leaving(k, chunk);
        }
        forward(f);
    });
}

template <class T>
void run_backward_in_chunks(const RnnBackward<T>& p, Steps<const T> wx, const T* b, const Chunks<T>& chunks, T* dr) {
    const Boundaries<T> between{chunks, p.shape};
    const CellSize cell = cell_size(p.shape.cell);
    Scratch<T> scratch(p.shape, chunks.every, cell);
    RepeatedForward<T> forward{{p.shape}};
    RepeatedBackward<T> backward{{p.shape}};
    for_each_part(p.shape, chunks.every, true, [&](int64_t chunk, const Part& part) {
        RnnForward<T> f;
        RnnBackward<T> g = p;
        f.shape = g.shape = part.shape;
        f.wx = part.of(wx), f.r = p.r, f.b = b;
        f.saved = scratch.saved;
        g.saved = {scratch.saved.data, scratch.saved.row, scratch.saved.time, scratch.saved.gate, scratch.saved.head};
        g.dwx = part.of(p.dwx), g.dq = part.of(p.dq);
        g.db = between.begins(chunk) ? p.db : nullptr;
        g.db_rows = p.db ? scratch.db_rows : nullptr;
        for (int k = 0; k < cell.states; ++k) {
            f.first[k] = g.first[k] = between.begins(chunk) ? p.first[k] : between.entering(k, chunk);
            f.last[k] = scratch.last[k];
            const Steps<T>& s = f.states[k] = scratch.states[k];
            g.states[k] = k == 0 ? part.of(p.states[0]) : Steps<const T>{s.data, s.row, s.time, s.gate, s.head};
            g.dstates[k] = part.of(p.dstates[k]);
            if (!between.ends(chunk)) g.dlast[k] = scratch.carried[k];
            if (!between.begins(chunk)) g.dfirst[k] = scratch.carried[k];
        }
        forward(f);
        backward(g);
    });
    if (dr) weight_gradient(p, dr);
}

#define FASTITER_INSTANTIATE(T)                                                  \
    template void run_forward_in_chunks(const RnnForward<T>&, const Chunks<T>&); \
    template void run_backward_in_chunks(const RnnBackward<T>&, Steps<const T>, const T*, const Chunks<T>&, T*);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter
