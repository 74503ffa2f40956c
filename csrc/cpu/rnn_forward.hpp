// Recurrences forward in time. For each step: a tile of rows times a panel of r in registers, then the cell on the
// accumulators before they are stored. The cells are in rnn_cells.hpp.
#pragma once
#include "rnn.hpp"

namespace fastiter::FASTITER_LEVEL {
template <class S, class C> struct Forward {
    typedef rnn_value<S> T;
    static constexpr int W = lanes<T>, G = C::gates, states = C::states, U = panel_units<C>, R = tile_rows<G * U>;
    static constexpr int kOneRow = panels_of_one_row(G * U), kTile = max_of(R, kOneRow) * U; // vectors of units
    static constexpr int64_t kPanelUnits = U * W;

    const RnnForward<S>& p;
    const RnnShape& shape = p.shape;
    const int64_t D = shape.D, Dp = round_up(D, kPanelUnits), panels = Dp / kPanelUnits;
    const Seat seat;
    const Range mine = share(panels, seat.panel_group, p.plan.panels); // panels of this thread
    const Rows rows;
    S *packed, *h; // r as [head][panel][k][unit vector][gate][lane]; h as [parity of the step][row][unit]
    T *bias, *s;   // b as [head][panel][unit vector][gate][lane]; the states other than h as [state][row][unit]
    int64_t lines;
    const bool streams = exceeds_caches<T>(shape, C::saved);
    const Bound<S> bound{shape.clip_state};
    int64_t ahead = 0; // from a line of wx to the one of the step after

    Forward(const RnnForward<S>& params, int thread)
        : p(params), seat(p.plan, thread), rows(p.shape, seat.row_group, p.plan.rows) {
        Arena arena{static_cast<char*>(p.workspace)};
        lay_out(arena);
    }

    void lay_out(Arena& arena) {
        lines = Rows::scratch_lines(shape, p.plan.rows);
        packed = arena.take<S>(shape.N * panels * panel_size());
        bias = arena.take<T>(shape.N * panels * G * kPanelUnits);
        for (int group = 0; group < p.plan.heads; ++group) {
            S* h_of_group = arena.take<S>(2 * lines * Dp);
            T* s_of_group = arena.take<T>((states - 1) * lines * Dp);
            if (group == seat.head_group) h = h_of_group, s = s_of_group;
        }
    }

    int64_t panel_size() const { return panel_depth<S>(D) * G * kPanelUnits; }
    T* bias_of(int64_t n, int64_t panel) const { return bias + (n * panels + panel) * G * kPanelUnits; }
    int units_of(int64_t panel) const { return int(min_of(U, ceil_div(D - panel * kPanelUnits, W))); }
    // Which of the two lines of h step t reads
    int64_t parity_of(int64_t t) const { return (t & 1) ^ int64_t(shape.reverse); }
    S* h_line(int64_t parity, int64_t i) const { return h + (parity * lines + rows.scratch + i) * Dp; }
    T* s_line(int state, int64_t i) const { return s + ((state - 1) * lines + rows.scratch + i) * Dp; }

    void pack_panel(int64_t n, int64_t panel) {
        const int units = units_of(panel), nv = units * G;
        for (int u = 0; u < units; ++u) {
            const int64_t d = panel * kPanelUnits + u * W, count = min_of(W, D - d);
            for (int g = 0; g < G; ++g) {
                store(bias_of(n, panel) + (u * G + g) * W,
                      p.b ? load_up_to(p.b + (g * shape.N + n) * D + d, count) : vec<T>{});
                const S* r = p.r + ((g * shape.N + n) * D + d) * D;
                pack_transposed(r, D, count, D,
                                packed + (n * panels + panel) * panel_size() + side_by_side<S> * (u * G + g) * W,
                                nv * W);
            }
        }
    }

    void pack(Team team) {
        Range mine = share(shape.N * panels, team.id, team.size);
        for (int64_t i = mine.begin; i < mine.end; ++i) pack_panel(i / panels, i % panels);
    }

    // The states before the first step, of units [begin, end) of head n; h where the row's first step reads it
    void enter(int64_t n, int64_t begin, int64_t end) {
        for (int64_t i = 0; i < rows.count; ++i) {
            const int64_t row = rows.row(i), parity = shape.reverse ? rows.length(i) & 1 : 0;
            auto copy = [&](const auto* first, auto* line) {
                if (first) first += (row * shape.N + n) * D;
                for (int64_t u = begin; u < end; u += W)
                    pack_line(first ? first + u : nullptr, first ? end - u : 0, line + u);
            };
            copy(p.first.h, h_line(parity, i));
            for (int k = 1; k < states; ++k) copy(p.first.others[k - 1], s_line(k, i));
        }
    }

    // Rows that begin anew at step t find zeros there.
    void drop(int64_t t, int64_t begin, int64_t end) {
        if (!shape.reset || t < 0 || t >= shape.T) return;
        for (int64_t i = 0, active = rows.active(t); i < active; ++i) {
            if (!shape.is_reset(rows.row(i), t)) continue;
            clear(h_line(parity_of(t), i), begin, end);
            for (int k = 1; k < states; ++k) clear(s_line(k, i), begin, end);
        }
    }

    void leave(int64_t n, int64_t begin, int64_t end) {
        for (int64_t i = 0; i < rows.count; ++i) {
            const int64_t row = rows.row(i), parity = shape.reverse ? 0 : rows.length(i) & 1;
            auto copy = [&](const auto* line, auto* last) {
                last += (row * shape.N + n) * D;
                for (int64_t u = begin; u < end; u += W) store_up_to(last + u, load(line + u), end - u);
            };
            copy(h_line(parity, i), p.last.h);
            for (int k = 1; k < states; ++k) copy(s_line(k, i), p.last.others[k - 1]);
        }
    }

    // What one vector of units of one row takes through a step
    struct Work {
        vec<T> state[states], keep[4];
        int64_t i, row, d;
    };

    FASTITER_INLINE void begin_cell(Work& w, const vec<T>* products, const vec<T>* before, int64_t n, int64_t t) {
        const S* line = line_of(p.wx, shape, w.row, t) + n * p.wx.head + w.d;
        vec<T> x[G];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) x[g] = load_up_to(line + g * p.wx.gate, D - w.d);
#pragma GCC unroll 4
        for (int k = 0; k < states; ++k) w.state[k] = before[k];
        C::begin(x, products, w.state, w.keep);
    }

    // The states other than h, rounded as they are to be, and the saved values, as far as they have a place
    FASTITER_INLINE void keep(Work& w, int64_t n, int64_t t) {
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) {
            const Steps<T>& all = p.states.others[k - 1];
            if (shape.rounds_states) w.state[k] = rounded<S>(w.state[k]);
            if (all.data) store_up_to(line_of(all, shape, w.row, t) + n * all.head + w.d, w.state[k], D - w.d);
        }
        if (C::saved && p.saved.data) {
            T* saved = line_of(p.saved, shape, w.row, t) + n * p.saved.head + w.d;
#pragma GCC unroll 4
            for (int g = 0; g < C::saved; ++g) {
                if (streams)
                    stream_up_to(saved + g * p.saved.gate, w.keep[g], D - w.d);
                else
                    store_up_to(saved + g * p.saved.gate, w.keep[g], D - w.d);
            }
        }
    }

    FASTITER_INLINE void finish_cell(Work& w, int64_t n, int64_t t, int64_t parity) {
        C::finish(w.state, w.keep);
        if (bound.given) w.state[0] = clip<T>(w.state[0], bound.value);
        store(h_line(parity ^ 1, w.i) + w.d, w.state[0]);
        if (p.states.h.data)
            store_up_to(line_of(p.states.h, shape, w.row, t) + n * p.states.h.head + w.d, w.state[0], D - w.d);
        keep(w, n, t);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) store(s_line(k, w.i) + w.d, w.state[k]);
    }

    // `count` vectors of a row's wx at the step after. The panels' shares of a line lie one after the other, although a panel
    // needs a piece of each gate: memory gives lines side by side faster.
    FASTITER_INLINE void vectors_ahead(int64_t n, int64_t t, int64_t row, int64_t panel, int count, const void** at) {
        const S* line = line_of(p.wx, shape, row, t) + n * p.wx.head + mine.begin * kPanelUnits + ahead;
        const int64_t width = (mine.end - mine.begin) * U, first = (panel - mine.begin) * U * G;
        for (int64_t i = first; i < first + count; ++i) *at++ = line + i / width * p.wx.gate + i % width * W;
    }

    // b + r h of `count` lines of h, `stride` apart, for `some` panels
    void add_products(int64_t n, int64_t panel, int some, const S* x, int64_t stride, int count, Fetch fetch,
                      vec<T>* out) {
        multiply<S>(
            count, units_of(panel) * G, some,
            {x, stride, packed + (n * panels + panel) * panel_size(), panel_size(), D, bias_of(n, panel), out, fetch});
    }

    // Rows [first, first + count) of the group times `some` panels, of which several are full
    void tile(int64_t n, int64_t t, int64_t first, int count, int64_t panel, int some = 1) {
        const int V = some * units_of(panel);
        const int64_t parity = parity_of(t);
        const void* ahead_of_rows[kTile * G];
        for (int i = 0; i < count; ++i)
            vectors_ahead(n, t, rows.row(first + i), panel, V * G, ahead_of_rows + i * V * G);
        vec<T> sums[kTile * G];
        add_products(n, panel, some, h_line(parity, first), Dp, count, {ahead_of_rows, V * G, 1}, sums);
        Work work[kTile];
        for (int i = 0; i < count; ++i)
            for (int v = 0; v < V; ++v) {
                Work& w = work[i * V + v];
                w.i = first + i, w.row = rows.row(first + i), w.d = panel * kPanelUnits + v * W;
                vec<T> before[states] = {};
                if (C::reads_h) before[0] = load(h_line(parity, w.i) + w.d);
#pragma GCC unroll 4
                for (int k = 1; k < states; ++k) before[k] = load(s_line(k, w.i) + w.d);
                begin_cell(w, &sums[(i * V + v) * G], before, n, t);
            }
        for (int i = 0; i < count * V; ++i) finish_cell(work[i], n, t, parity);
    }

    void step(int64_t n, int64_t t, int64_t active) {
        if (active == 1)
            return back_and_forth_in_groups(kOneRow, mine, D / kPanelUnits, t,
                                            [&](int64_t j, int some) { tile(n, t, 0, 1, j, some); });
        back_and_forth(mine, t, [&](int64_t j) {
            for_each_tile<R>(active, [&](int64_t first, int count) { tile(n, t, first, count, j); });
        });
    }

    // Padded steps of padded batches are 0.
    void pad(int64_t n, int64_t t, int64_t active, int64_t begin, int64_t end) {
        for (int64_t i = active; i < rows.count && has_padding(shape); ++i) {
            auto clear_step = [&](const auto& all) {
                if (all.data) clear(line_of(all, shape, rows.row(i), t) + n * all.head, begin, end);
            };
            clear_step(p.states.h);
            for (int k = 1; k < states; ++k) clear_step(p.states.others[k - 1]);
        }
    }

    void run_head(int64_t n, Team team) {
        const int64_t begin = mine.begin * kPanelUnits, end = min_of(D, mine.end * kPanelUnits);
        Barrier& barrier = team.barriers[seat.barrier(p.plan)];
        const int64_t first = shape.reverse ? shape.T - 1 : 0, next = shape.reverse ? -1 : 1;
        enter(n, begin, end);
        drop(first, begin, end);
        wait(barrier, p.plan.panels);
        for (int64_t k = 0; k < shape.T; ++k) {
            const int64_t t = first + k * next, active = rows.active(t);
            ahead = line_ahead(p.wx, shape, t, next);
            step(n, t, active);
            pad(n, t, active, begin, end);
            drop(t + next, begin, end);
            wait(barrier, p.plan.panels);
        }
        leave(n, begin, end);
        stream_fence();
    }
};

template <class S, class C> size_t forward_workspace(const RnnShape& shape, const RnnPlan& plan) {
    RnnForward<S> p;
    p.shape = shape;
    p.plan = plan;
    Forward<S, C> f(p, 0);
    Arena arena{nullptr};
    f.lay_out(arena);
    return size_t(arena.used);
}

template <class S, class C> void forward(const RnnForward<S>& p, Team team) {
    Forward<S, C> f(p, team.id);
    if (!p.is_packed) f.pack(team);
    wait(team.barriers[team.size - 1], team.size); // the last one is no group's: see run_head
    Range heads = share(p.shape.N, f.seat.head_group, p.plan.heads);
    for (int64_t n = heads.begin; n < heads.end; ++n) f.run_head(n, team);
}

// The plan with the least estimated cycles a step. Sizes of caches and rates are those of current x86 server cores; they
// decide only how fast the result comes.
template <class S> RnnPlan rnn_plan(const RnnShape& shape, bool backward, int threads) {
    constexpr double kMacsPerCycle = (sizeof(S) == 2 ? 4 : 2) * lanes<S>, kBarrier = 500, kCell = 25, kStart = 8000;
    constexpr double kL1 = 32 << 10, kL2 = 768 << 10, kL2Bytes = 40, kL3Bytes = 20;
    const double G = shape.cell == Cell::gru ? 3 : shape.cell == Cell::lstm || shape.cell == Cell::slstm ? 4 : 1;
    const int64_t panels = max_of(1, ceil_div(shape.D, lanes<S> * (backward || G == 1 ? 4 : 1)));
    auto cycles = [&](int heads, int row_groups, int panel_groups) {
        const double rows = ceil_div(shape.B, row_groups), units = double(ceil_div(panels, panel_groups)) / panels;
        const double elements = G * shape.D * shape.D * units, bytes = elements * sizeof(S);
        const double passes = ceil_div(int64_t(rows), 6), arithmetic = rows * elements / kMacsPerCycle;
        const double traffic = bytes <= kL1 ? 0 : passes * bytes / kL2Bytes + (bytes <= kL2 ? 0 : bytes / kL3Bytes);
        const double cells = rows * G * shape.D * units / lanes<S> * kCell;
        const double step = (arithmetic > traffic ? arithmetic : traffic) + cells + (panel_groups > 1 ? kBarrier : 0);
        return ceil_div(shape.N, heads) * step * shape.T + (heads * row_groups * panel_groups > 1 ? kStart : 0);
    };
    RnnPlan best;
    double least = cycles(1, 1, 1);
    for (int h = 1; h <= min_of(threads, shape.N); ++h)
        for (int r = 1; r * h <= threads && r <= shape.B; ++r)
            for (int c = 1; c * r * h <= threads && c <= panels; ++c)
                if (cycles(h, r, c) < least) least = cycles(h, r, c), best = {h, r, c};
    return best;
}

} // namespace fastiter::FASTITER_LEVEL
