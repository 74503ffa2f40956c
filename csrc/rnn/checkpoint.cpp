// Recurrences in chunks of time (checkpointing), so that the backward pass needs the gates of one chunk only. Each
// chunk is a call of the same kernels, which reuse the packed r of the previous chunk.
#include "core/launch.hpp"
#include "core/rows.hpp"
#include "rnn/run.hpp"
#include "rnn/weight_gradient.hpp"
#include <algorithm>
#include <utility>

namespace fastiter::rnn {
namespace {

// Steps [begin, begin + shape.T) of the whole sequence. Rows keep the order they have in the whole sequence, which
// fixes the order of sums over rows.
struct Part {
    int64_t begin;
    RnnShape shape;
    std::vector<int64_t> lengths;

    Part(const RnnShape& whole, int64_t begin_, int64_t count) : begin(begin_), shape(whole) {
        shape.T = count;
        if (whole.reset) shape.reset += begin;
        if (whole.offsets) shape.offsets += begin;
        if (!whole.lengths) return;
        lengths.resize(size_t(whole.B));
        for (size_t i = 0; i < lengths.size(); ++i)
            lengths[i] = std::clamp<int64_t>(whole.lengths[i] - begin, 0, count);
        shape.lengths = lengths.data();
    }
    template <class T> Steps<T> of(Steps<T> s) const {
        if (s.data) s.data += begin * s.time;
        return s;
    }
    // For memory that begins with this part: offsets of a packed batch count from the start of the whole.
    template <class T> Steps<T> alone(Steps<T> s) const {
        if (s.data && shape.offsets && shape.T) s.data -= shape.offsets[0] * s.row;
        return s;
    }
};

// Calls f(chunk, part) in the order of the forward computation, or in reverse if backward.
template <class F> void for_each_part(RnnShape whole, int64_t every, bool backward, F f) {
    const std::vector<int64_t> order = by_length(whole.lengths, whole.B);
    if (whole.lengths) whole.order = order.data();
    const int64_t count = std::max<int64_t>(1, (whole.T + every - 1) / every);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t chunk = whole.reverse != backward ? count - 1 - i : i, begin = chunk * every;
        f(chunk, Part(whole, begin, std::min(every, whole.T - begin)));
    }
}

// A kernel that is called for each chunk in sequence, and packs r only for the first
template <class Params> struct Repeated {
    const RnnShape& whole;
    Block<> space{};
    void* packed = nullptr;

    // bytes(whole, plan): the size of its workspace
    template <class Plan, class Bytes>
    void run(void (*kernel)(const Params&, Team), Params& p, Plan plan, bool backward, Bytes bytes) {
        launch(kernel, p, [&](int threads) {
            p.plan = plan(whole, backward, threads);
            p.workspace = space.of(bytes(whole, p.plan));
            p.is_packed = p.workspace == packed;
            return p.plan.threads();
        });
        packed = p.workspace;
    }
};

template <class S> struct RepeatedForward : Repeated<RnnForward<S>> {
    void operator()(RnnForward<S>& p) {
        const Kernels<S>& k = kernels<S>();
        this->run(k.fwd, p, k.plan, false,
                  [&](const RnnShape& whole, const RnnPlan& plan) { return k.fwd_workspace(whole, plan, 0); });
    }
};

template <class S> struct RepeatedRecompute : Repeated<RnnForward<S>> {
    void operator()(RnnForward<S>& p) {
        const Kernels<S>& k = kernels<S>();
        this->run(k.recompute, p, k.plan, false, k.recompute_workspace);
    }
};

template <class S> struct RepeatedBackward : Repeated<RnnBackward<S>> {
    void operator()(RnnBackward<S>& p) {
        const Kernels<S>& k = kernels<S>();
        this->run(k.bwd, p, k.plan, true, [&](const RnnShape& whole, const RnnPlan& plan) {
            return k.bwd_workspace(whole, plan, p.dr != nullptr);
        });
    }
};

// Calls f for each state (h, c, ...) of several PerState structs in lockstep.
template <class F, class... Each> void for_each_state(int states, F f, Each&&... each) {
    f(each.h...);
    for (int k = 1; k < states; ++k) f(each.others[k - 1]...);
}

// The initial and final states of a chunk
struct Boundaries {
    const RnnShape& whole;
    int64_t every;
    const int64_t last = std::max<int64_t>(1, (whole.T + every - 1) / every) - 1;

    bool begins(int64_t chunk) const { return chunk == (whole.reverse ? last : 0); }
    bool ends(int64_t chunk) const { return chunk == (whole.reverse ? 0 : last); }
    template <class X> X* entering(X* saved, int64_t chunk) const {
        return at(saved, whole.reverse ? chunk : chunk - 1);
    }
    template <class X> X* leaving(X* saved, int64_t chunk) const {
        return at(saved, whole.reverse ? chunk - 1 : chunk);
    }
    template <class X> X* at(X* saved, int64_t i) const { return saved + i * whole.B * whole.N * whole.D; }
};

// Workspace for the recomputed arrays of a chunk: head by head, each head step by step
template <class S> struct Scratch {
    using T = accumulate_t<S>;
    Block<T> space;
    PerState<Steps<S>, Steps<T>> states; // other than h
    Steps<T> saved;
    PerState<T*, T*> carried;
    T* db_rows;

    Scratch(const RnnShape& s, int64_t every, const CellSize& cell) {
        constexpr int64_t kLine = 64 / sizeof(T);
        const int64_t unit = s.N * s.D, lines = s.B * std::min(every, s.T), steps = lines * unit;
        const int64_t rows = s.B * s.N * (cell.gates * ((s.D + kLine - 1) / kLine * kLine) + kFreeAfterDb);
        const int64_t count = steps * (cell.states - 1 + cell.saved) + cell.states * s.B * unit + rows;
        space = Block<T>(count);
        T* data = space.data();
        auto take = [&](int64_t n) { return std::exchange(data, data + n); };
        db_rows = take(rows);
        std::fill_n(db_rows, rows, T(0));
        for_each_state(cell.states, [&](T*& of) { of = take(s.B * unit); }, carried);
        for (int k = 1; k < cell.states; ++k) states.others[k - 1] = {take(steps), s.D, s.B * s.D, 0, lines * s.D};
        const int64_t line = cell.saved * s.D;
        if (cell.saved) saved = {take(steps * cell.saved), line, s.B * line, s.D, lines * line};
    }
};

template <class T> Steps<const T> constant(const Steps<T>& s) { return {s.data, s.row, s.time, s.gate, s.head}; }

} // namespace

template <class S> void run_forward_with_checkpoints(const RnnForward<S>& p, const Checkpoints<S>& chunks) {
    const Boundaries between{p.shape, chunks.every};
    RepeatedForward<S> forward{{p.shape}};
    const int states = cell_size(p.shape.cell).states;
    for_each_part(p.shape, chunks.every, false, [&](int64_t chunk, const Part& part) {
        RnnForward<S> f = p;
        f.shape = part.shape;
        f.wx = part.of(p.wx);
        for_each_state(
            states,
            [&](auto& all, auto& first, auto& last, auto* saved) {
                all = part.of(all);
                if (!between.begins(chunk)) first = between.entering(saved, chunk);
                if (!between.ends(chunk)) last = between.leaving(saved, chunk);
            },
            f.states, f.first, f.last, chunks.saved);
        forward(f);
    });
}

template <class S>
void run_backward_with_checkpoints(const RnnBackward<S>& p, Steps<const S> wx, const accumulate_t<S>* b,
                                   const Checkpoints<S>& chunks, S* dr) {
    const Boundaries between{p.shape, chunks.every};
    const CellSize cell = cell_size(p.shape.cell);
    Scratch<S> scratch(p.shape, chunks.every, cell);
    RepeatedRecompute<S> recompute{{p.shape}};
    RepeatedBackward<S> backward{{p.shape}};
    RnnBackward<S> whole = p;
    WeightGradient<S> of_r(whole, dr);
    std::vector<accumulate_t<S>> dr_block(size_t(of_r.size_inside()));
    if (of_r.is_inside()) whole.dr_block = dr_block.data();
    for_each_part(p.shape, chunks.every, true, [&](int64_t chunk, const Part& part) {
        RnnForward<S> f;
        RnnBackward<S> g = whole;
        f.shape = g.shape = part.shape;
        g.steps_after = p.shape.reverse ? p.shape.T - part.begin - part.shape.T : part.begin;
        f.wx = part.of(wx);
        f.r = p.r;
        f.b = b;
        f.saved = part.alone(scratch.saved);
        g.saved = constant(f.saved);
        f.known_h = g.states.h = part.of(p.states.h);
        for (int k = 0; k + 1 < cell.states; ++k) {
            f.states.others[k] = part.alone(scratch.states.others[k]);
            g.states.others[k] = constant(f.states.others[k]);
        }
        g.dwx = part.of(p.dwx);
        g.dq = part.of(whole.dq);
        g.db = between.begins(chunk) ? p.db : nullptr;
        g.db_rows = p.db ? scratch.db_rows : nullptr;
        for_each_state(
            cell.states,
            [&](auto& dstates, auto& first, auto* saved) {
                dstates = part.of(dstates);
                if (!between.begins(chunk)) first = between.entering(saved, chunk);
            },
            g.dstates, g.first, chunks.saved);
        if (!between.begins(chunk)) {
            g.dh_before = scratch.carried.h;
            g.dfirst.h = nullptr;
        }
        if (!between.ends(chunk)) {
            g.dh_after = scratch.carried.h;
            g.dlast.h = nullptr;
        }
        for (int k = 0; k + 1 < cell.states; ++k) {
            if (!between.begins(chunk)) g.dfirst.others[k] = scratch.carried.others[k];
            if (!between.ends(chunk)) g.dlast.others[k] = scratch.carried.others[k];
        }
        f.first = g.first;
        if (cell.saved || cell.states > 1) recompute(f);
        backward(g);
        whole.dr_is_clear = true;
    });
    of_r.finish(whole);
}

#define FASTITER_INSTANTIATE(S)                                                                                \
    template void run_forward_with_checkpoints(const RnnForward<S>&, const Checkpoints<S>&);                   \
    template void run_backward_with_checkpoints(const RnnBackward<S>&, Steps<const S>, const accumulate_t<S>*, \
                                                const Checkpoints<S>&, S*);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)
FASTITER_INSTANTIATE(bf16)

} // namespace fastiter::rnn
