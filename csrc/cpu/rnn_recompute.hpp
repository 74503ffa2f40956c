// What a forward pass left out, from h of all its steps: the saved values and the states other than h. No product waits for a
// step then: a tile takes steps of a row one after the other, and only the elementwise part of the cell goes along time. Sums
// and cells are those of rnn_forward.hpp, to the bit.
#pragma once
#include "rnn_forward.hpp"

namespace fastiter::FASTITER_LEVEL {
template <class S, class C> struct Recompute : Forward<S, C> {
    typedef Forward<S, C> Base;
    typedef rnn_value<S> T;
    using Base::D, Base::G, Base::kPanelUnits, Base::mine, Base::p, Base::rows, Base::shape, Base::states, Base::U,
        Base::W;
    static constexpr int R = tile_rows<G * U>;
    static constexpr int64_t kBlockBytes = 128 << 10; // of h at a time: they stay in the second level beside a panel

    // A step of a row
    struct Line {
        int64_t row, t;
        bool is_first, is_reset;
    };
    // Lines that are a power of two apart would fall into the same few sets of the first-level cache.
    const int64_t stride = round_up(D, 16) + 16, capacity = max_of(R, kBlockBytes / (stride * int64_t(sizeof(S))));
    Line* lines = nullptr; // of a block, in the order in which each row takes its steps
    S* h_before = nullptr; // of the same lines

    Recompute(const RnnForward<S>& params, int thread) : Base(params, thread) {
        Arena arena{static_cast<char*>(p.workspace)};
        lay_out(arena, thread);
    }

    void lay_out(Arena& arena, int thread) {
        Base::lay_out(arena);
        for (int i = 0; i < p.plan.threads(); ++i) {
            Line* lines_of_thread = arena.take<Line>(capacity);
            S* h_of_thread = arena.take<S>(capacity * stride);
            if (i == thread) lines = lines_of_thread, h_before = h_of_thread;
        }
    }

    // A state of head n as the line finds it; nullptr: zeros
    template <class X, class Y>
    const X* before(const Line& line, int64_t n, const X* first, const Steps<Y>& all) const {
        if (line.is_reset) return nullptr;
        if (line.is_first) return first ? first + (line.row * shape.N + n) * D : nullptr;
        return line_of(all, shape, line.row, shape.reverse ? line.t + 1 : line.t - 1) + n * all.head;
    }

    void copy_h(int64_t i, int64_t n) {
        const S* h = before(lines[i], n, p.first.h, p.known_h);
        S* to = h_before + i * stride;
        for (int64_t u = 0; u < D; u += W) pack_line(h ? h + u : nullptr, h ? D - u : 0, to + u);
        to[D] = S{}; // the last pair of an odd number of products
    }

    // Lines [first, first + count) times a panel
    void tile(int64_t n, int64_t first, int count, int64_t panel) {
        const int units = this->units_of(panel);
        const int64_t unit = panel * kPanelUnits;
        const void* x[R * G];
        for (int i = 0; i < count; ++i)
            for (int g = 0; g < G; ++g)
                x[i * G + g] = line_of(p.wx, shape, lines[first + i].row, lines[first + i].t) + n * p.wx.head +
                               g * p.wx.gate + unit;
        vec<T> sums[R * U * G], state[U][states] = {};
        this->add_products(n, panel, 1, h_before + first * stride, stride, count, {x, G, units * W * int(sizeof(S))},
                           sums);
        for (int i = 0; i < count; ++i)
            for (int v = 0; v < units; ++v) {
                const Line& line = lines[first + i];
                typename Base::Work w;
                w.row = line.row, w.d = unit + v * W;
#pragma GCC unroll 4
                for (int k = 1; k < states; ++k) {
                    const Steps<T>& all = p.states.others[k - 1];
                    if (i > 0 && !line.is_first && !line.is_reset) continue;
                    const T* s = before(line, n, p.first.others[k - 1], all);
                    state[v][k] = s ? load_up_to(s + w.d, D - w.d) : vec<T>{};
                }
                this->begin_cell(w, &sums[(i * units + v) * G], state[v], n, line.t);
                C::finish(w.state, w.keep);
                this->keep(w, n, line.t);
#pragma GCC unroll 4
                for (int k = 1; k < states; ++k) state[v][k] = w.state[k];
            }
    }

    void run_block(int64_t n, int64_t count) {
        for (int64_t i = 0; i < count; ++i) copy_h(i, n);
        for (int64_t j = mine.begin; j < mine.end; ++j)
            for_each_tile<R>(count, [&](int64_t first, int tile_count) { tile(n, first, tile_count, j); });
    }

    void run_head(int64_t n) {
        int64_t count = 0;
        for (int64_t i = 0; i < rows.count; ++i)
            for (int64_t row = rows.row(i), length = rows.length(i), k = 0; k < length; ++k) {
                const int64_t t = shape.reverse ? length - 1 - k : k;
                lines[count++] = {row, t, k == 0, shape.is_reset(row, t)};
                if (count == capacity) run_block(n, std::exchange(count, 0));
            }
        run_block(n, count);
        stream_fence();
    }
};

template <class S, class C> size_t recompute_workspace(const RnnShape& shape, const RnnPlan& plan) {
    RnnForward<S> p;
    p.shape = shape;
    p.plan = plan;
    Recompute<S, C> f(p, 0);
    Arena arena{nullptr};
    f.lay_out(arena, 0);
    return size_t(arena.used);
}

template <class S, class C> void recompute(const RnnForward<S>& p, Team team) {
    Recompute<S, C> f(p, team.id);
    if (!p.is_packed) f.pack(team);
    wait(team.barriers[team.size - 1], team.size);
    Range heads = share(p.shape.N, f.seat.head_group, p.plan.heads);
    for (int64_t n = heads.begin; n < heads.end; ++n) f.run_head(n);
}

} // namespace fastiter::FASTITER_LEVEL
