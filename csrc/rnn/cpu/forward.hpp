// Forward pass of the recurrences. For each step: a tile of rows times a panel of r in registers, then the cell on the
// accumulators before they are stored. The cells are in cells.hpp.
#pragma once
#include "rnn/cpu/partition.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {
template <class S, class C> struct Forward {
    using T = accumulate_t<S>;
    static constexpr int W = lanes<T>, G = C::gates, states = C::states, U = panel_units(G), R = rows_of_tile<S, G * U>;
    static_assert(G * U == 3 || G * U == 4, "multiply takes several panels of a single row only with 3 or 4 vectors");
    static_assert(C::saved <= 4 && states <= kMaxStates, "the registers of Work, and the loops unrolled four times");
    static constexpr int kOneRow = panels_of_one_row<S>(G * U), kTile = max_of(R, kOneRow) * U; // vectors of units
    static constexpr int kTogether = min_of(R, kTileRows); // rows whose cells are interleaved
    static constexpr int64_t kPanelUnits = U * W;

    const RnnForward<S>& p;
    const RnnShape& shape = p.shape;
    const int64_t D = shape.D, panels = ceil_div(D, kPanelUnits), Dp = max_of(panels * kPanelUnits, panel_depth<S>(D)),
                  I = p.x.width;
    const bool multiplies_x = on_tiles<S> && I > 0;
    const ThreadCoords coords;
    const Range mine = share(panels, coords.panel_group, p.plan.panels); // panels of this thread
    const Rows rows;
    S *packed, *packed_x; // r, and W of the inputs, as [head][panel][k][unit vector][gate][lane]
    T *bias, *bias_x;     // b, and the inputs' bias, as [head][panel][unit vector][gate][lane]
    S* h;                 // [parity of the step][row][unit]
    T* s;                 // states other than h as [state][row][unit]
    int64_t lines;

    // Pointers of one row at one step, to unit 0; nullptr: not requested.
    struct StepPointers {
        int64_t i;
        const S* x;
        PerState<S*, T*> states;
        T* saved;
    };
    StepPointers* line; // for each of the thread's rows at one step
    TileRegisters registers;

    const bool streams = exceeds_caches<T>(shape, C::saved);
    const Bound<S> bound{shape.clip_state};
    int64_t ahead, ahead_of[states + 1]; // offsets to the next step: of wx (or x), and of each output

    Forward(const RnnForward<S>& params, int thread)
        : p(params), coords(p.plan, thread), rows(p.shape, coords.row_group, p.plan.rows) {
        Arena arena{static_cast<char*>(p.workspace)};
        lay_out(arena, thread);
    }

    void lay_out(Arena& arena, int thread) {
        lines = Rows::scratch_lines(shape, p.plan.rows);
        packed = arena.take<S>(shape.N * panels * panel_size());
        packed_x = arena.take<S>(shape.N * panels * panel_size_x());
        bias = arena.take<T>(shape.N * panels * G * kPanelUnits);
        bias_x = arena.take<T>(multiplies_x ? shape.N * panels * G * kPanelUnits : 0);
        for (int group = 0; group < p.plan.heads; ++group) {
            S* h_of_group = arena.take<S>(2 * lines * Dp);
            T* s_of_group = arena.take<T>((states - 1) * lines * Dp);
            if (group == coords.head_group) {
                h = h_of_group;
                s = s_of_group;
            }
        }
        for (int i = 0; i < p.plan.threads(); ++i) {
            StepPointers* line_of_thread = arena.take<StepPointers>(ceil_div(shape.B, p.plan.rows));
            if (i == thread) line = line_of_thread;
        }
    }

    int64_t panel_size() const { return panel_depth<S>(D) * G * kPanelUnits; }
    int64_t panel_size_x() const { return panel_depth<S>(I) * G * kPanelUnits; }
    int64_t bias_of(int64_t n, int64_t panel) const { return (n * panels + panel) * G * kPanelUnits; }
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
                const int64_t line = (g * shape.N + n) * D + d, v = u * G + g;
                auto pack = [&](const S* matrix, int64_t K, S* to, const T* b, T* to_bias) {
                    pack_transposed(matrix + line * K, K, count, K, to + side_by_side<S> * v * W, nv * W);
                    store(to_bias + bias_of(n, panel) + v * W, b ? load_up_to(b + line, count) : vec<T>{});
                };
                pack(p.r, D, packed + (n * panels + panel) * panel_size(), p.b, bias);
                if (multiplies_x) pack(p.x.w, I, packed_x + (n * panels + panel) * panel_size_x(), p.x.b, bias_x);
            }
        }
        clear_rest_of_panel(packed + (n * panels + panel) * panel_size(), D, nv * W);
    }

    void pack(Team team) {
        Range mine = share(shape.N * panels, team);
        for (int64_t i = mine.begin; i < mine.end; ++i) pack_panel(i / panels, i % panels);
    }

    // Copies the states before the first step, units [begin, end) of head n; h to the line that the row's first step
    // reads.
    void load_initial_state(int64_t n, int64_t begin, int64_t end) {
        for (int64_t i = 0; i < rows.count; ++i) {
            const int64_t row = rows.row(i), parity = shape.reverse ? rows.length(i) & 1 : 0;
            auto copy = [&](const auto* first, auto* line) {
                if (first) first += (row * shape.N + n) * D;
                for (int64_t u = begin; u < end; u += W)
                    pack_line(first ? first + u : nullptr, first ? end - u : 0, line + u);
            };
            copy(p.first.h, h_line(parity, i));
            for (int k = 1; k < states; ++k) copy(p.first.others[k - 1], s_line(k, i));
            for (int line = 0; line < 2 && end == D; ++line) clear(h_line(line, i), D, panel_depth<S>(D));
        }
    }

    // Clears the states of rows that restart at step t.
    void reset_states(int64_t t, int64_t begin, int64_t end) {
        if (!shape.reset || t < 0 || t >= shape.T) return;
        for (int64_t i = 0, active = rows.active(t); i < active; ++i) {
            if (!shape.is_reset(rows.row(i), t)) continue;
            clear(h_line(parity_of(t), i), begin, end);
            for (int k = 1; k < states; ++k) clear(s_line(k, i), begin, end);
        }
    }

    void store_final_state(int64_t n, int64_t begin, int64_t end) {
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

    // Calls f(pointer, array, index) for each pointer of a row into an array over time, except x.
    template <class F> FASTITER_INLINE void for_each_place(StepPointers& at, F f) const {
        f(at.states.h, p.states.h, 0);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) f(at.states.others[k - 1], p.states.others[k - 1], k);
        if (C::saved) f(at.saved, p.saved, states);
    }

    StepPointers pointers_at(int64_t n, int64_t t, int64_t i, int64_t row) const {
        auto at = [&](const auto& all) { return all.data ? line_of(all, shape, row, t) + n * all.head : nullptr; };
        StepPointers line{};
        line.i = i;
        line.x = multiplies_x ? p.x.data + row * p.x.row + t * p.x.time : at(p.wx);
        for_each_place(line, [&](auto*& to, const auto& all, int) { to = at(all); });
        return line;
    }

    FASTITER_INLINE void advance_pointers(StepPointers& at) const {
        at.x += ahead;
        for_each_place(at, [&](auto*& to, const auto&, int index) { to += ahead_of[index]; });
    }

    void look_ahead(int64_t t) {
        const int64_t by = shape.reverse ? -1 : 1;
        StepPointers any;
        ahead = multiplies_x ? by * p.x.time : line_ahead(p.wx, shape, t, by);
        for_each_place(any, [&](auto*&, const auto& all, int k) { ahead_of[k] = line_ahead(all, shape, t, by); });
    }

    // Sets the pointers of the rows that have step t; the first `still_active` of them were active at the previous
    // step.
    void set_step_pointers(int64_t n, int64_t t, int64_t still_active, int64_t active) {
        for (int64_t i = 0; i < still_active; ++i) advance_pointers(line[i]);
        for (int64_t i = still_active; i < active; ++i) line[i] = pointers_at(n, t, i, rows.row(i));
        look_ahead(t);
    }

    // Registers for one vector of units of one row during a step
    struct Work {
        vec<T> state[states], keep[4];
    };

    // inputs: W x + b of the vector's gates, or nullptr if it is in memory (wx)
    FASTITER_INLINE void begin_cell(Work& w, const StepPointers& line, int64_t d, const vec<T>* inputs,
                                    const vec<T>* products, const vec<T>* before) {
        vec<T> x[G];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g)
            x[g] = on_tiles<S> && inputs ? inputs[g] : load_up_to(line.x + g * p.wx.gate + d, D - d);
#pragma GCC unroll 4
        for (int k = 0; k < states; ++k) w.state[k] = before[k];
        C::begin(x, products, w.state, w.keep);
    }

    // Rounds (if requested) and stores the states other than h, and stores the saved values, if their arrays are
    // present.
    FASTITER_INLINE void keep(Work& w, const StepPointers& line, int64_t d) {
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) {
            if (shape.rounds_states) w.state[k] = rounded<S>(w.state[k]);
            if (line.states.others[k - 1]) store_up_to(line.states.others[k - 1] + d, w.state[k], D - d);
        }
        if (!C::saved || !line.saved) return;
#pragma GCC unroll 4
        for (int g = 0; g < C::saved; ++g) put_up_to(line.saved + g * p.saved.gate + d, w.keep[g], D - d, streams);
    }

    FASTITER_INLINE void finish_cell(Work& w, const StepPointers& line, int64_t d, int64_t parity) {
        C::finish(w.state, w.keep);
        if (bound.is_finite) w.state[0] = clip<T>(w.state[0], bound.value);
        store_up_to(h_line(parity ^ 1, line.i) + d, w.state[0], D - d); // zeros beyond D, for the product
        if (line.states.h) store_up_to(line.states.h + d, w.state[0], D - d);
        keep(w, line, d);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) store(s_line(k, line.i) + d, w.state[k]);
    }

    // Maximum vectors of units of one row in a tile, and addresses that the tile prefetches
    static constexpr int kVectors = kOneRow * U, kAddresses = kVectors * (G + states + C::saved);
    using TileAddresses = Addresses<R, kAddresses>;
    static constexpr int64_t kOfLine = max_of(1, 64 / (W * int64_t(sizeof(S)))); // vectors per cache line of wx or h

    // Prefetches wx of the next step. The panels' shares of a row are contiguous, although a panel needs a piece of
    // each gate, as memory delivers contiguous cache lines faster. Each cache line is prefetched once.
    FASTITER_INLINE void prefetch_x(const StepPointers* tile, int64_t panel, int V, TileAddresses& addresses) const {
        if (multiplies_x) return ask_for_inputs(tile, panel, addresses);
        const int64_t width = (mine.end - mine.begin) * U, first = (panel - mine.begin) * U * G;
        for (int64_t i = round_up(first, kOfLine); i < first + V * G; i += kOfLine) {
            const int64_t offset = ahead + mine.begin * kPanelUnits + i / width * p.wx.gate + i % width * W;
            addresses.add([&](int row) { return tile[row].x + offset; });
        }
    }

    // Prefetches a panel's share of the rows of x at the next step.
    FASTITER_INLINE void ask_for_inputs(const StepPointers* tile, int64_t panel, TileAddresses& addresses) const {
        const int64_t line = 64 / int64_t(sizeof(S)), stride = (mine.end - mine.begin) * line;
        for (int64_t i = (panel - mine.begin) * line; i < I && addresses.count < kVectors * G; i += stride)
            addresses.add([&](int row) { return tile[row].x + ahead + i; });
    }

    // Prefetches the outputs of the tile: a store that waits for its cache line blocks all later ones.
    FASTITER_INLINE void ask_for_outputs(const StepPointers* tile, int64_t unit, int V,
                                         TileAddresses& addresses) const {
        for (int64_t d = unit; d < unit + V * W; d += W) {
            if (p.states.h.data && d / W % kOfLine == 0) addresses.add([&](int row) { return tile[row].states.h + d; });
            for (int k = 0; k < states - 1; ++k)
                if (p.states.others[k].data) addresses.add([&](int row) { return tile[row].states.others[k] + d; });
            for (int g = 0; g < C::saved && p.saved.data && !streams; ++g)
                addresses.add([&](int row) { return tile[row].saved + g * p.saved.gate + d; });
        }
    }

    // out = b + r h for `count` rows of h with row stride `stride`, for `some` panels; r h may be rounded
    void add_products(int64_t n, int64_t panel, int some, const S* x, int64_t stride, int count, Fetch fetch,
                      vec<T>* out) {
        const S* r = packed + (n * panels + panel) * panel_size();
        const T *b = bias + bias_of(n, panel), *start = shape.rounds_products ? nullptr : b;
        const int nv = units_of(panel) * G, V = some * nv;
        multiply<S>(registers, count, nv, some, {x, stride, r, panel_size(), D, start, out, fetch});
        for (int i = 0; !start && i < count * V; ++i) out[i] = rounded<S>(out[i]) + load(b + i % V * W);
    }

    // out = W x + b of the inputs for rows [first, first + count), bitwise equal to the matrix product's
    void add_inputs(int64_t n, int64_t panel, int some, int64_t first, int count, vec<T>* out) {
        const S* w = packed_x + (n * panels + panel) * panel_size_x();
        const int nv = units_of(panel) * G, V = some * nv;
        multiply<S>(registers, count, nv, some, {line[first].x, p.x.row, w, panel_size_x(), I, nullptr, out, {}});
        for (int i = 0; i < count * V && p.x.b; ++i) out[i] += load(bias_x + bias_of(n, panel) + i % V * W);
        // rounded here, as rounding in the cell was slower
        for (int i = 0; i < count * V; ++i) out[i] = rounded<S>(out[i]);
    }

    // Rows [first, first + count) of the group times `some` panels; if several, all are full.
    void tile(int64_t n, int64_t parity, int64_t first, int count, int64_t panel, int some = 1) {
        const int V = some * units_of(panel);
        const int64_t unit = panel * kPanelUnits;
        TileAddresses addresses(count);
        prefetch_x(line + first, panel, V, addresses);
        ask_for_outputs(line + first, unit, V, addresses);
        struct {
            vec<T> products[kTile * G], gap[5], inputs[on_tiles<S> ? kTile * G : 1];
        } sums; // the gap avoids 4 KB aliasing of loads with earlier stores
        if (multiplies_x) add_inputs(n, panel, some, first, count, sums.inputs);
        add_products(n, panel, some, h_line(parity, first), Dp, count, addresses.fetch(1), sums.products);
        for (int i = 0; i < count; i += kTogether)
            cells(line + first + i, int(min_of(kTogether, count - i)), unit, V, parity,
                  multiplies_x ? sums.inputs + i * V * G : nullptr, sums.products + i * V * G);
    }

    // The cells of `count` <= kTogether rows and V vectors of units
    FASTITER_INLINE void cells(const StepPointers* of_row, int count, int64_t unit, int V, int64_t parity,
                               const vec<T>* inputs, const vec<T>* sums) {
        Work work[max_of(kTogether, kOneRow) * U];
        for (int i = 0; i < count; ++i)
            for (int v = 0; v < V; ++v) {
                const int64_t d = unit + v * W;
                vec<T> before[states] = {};
                if (C::reads_h) before[0] = load(h_line(parity, of_row[i].i) + d);
#pragma GCC unroll 4
                for (int k = 1; k < states; ++k) before[k] = load(s_line(k, of_row[i].i) + d);
                begin_cell(work[i * V + v], of_row[i], d, inputs ? inputs + (i * V + v) * G : nullptr,
                           sums + (i * V + v) * G, before);
            }
        for (int i = 0; i < count; ++i)
            for (int v = 0; v < V; ++v) finish_cell(work[i * V + v], of_row[i], unit + v * W, parity);
    }

    void step(int64_t n, int64_t t, int64_t active) {
        const int64_t parity = parity_of(t);
        if (active == 1)
            return zigzag_in_groups(kOneRow, mine, D / kPanelUnits, t,
                                    [&](int64_t j, int some) { tile(n, parity, 0, 1, j, some); });
        zigzag(mine, t, [&](int64_t j) {
            for_each_tile(tile_rows_of<S>(R, D), active,
                          [&](int64_t first, int count) { tile(n, parity, first, count, j); });
        });
    }

    // Clears the padded steps of padded batches.
    void zero_padding(int64_t n, int64_t t, int64_t active, int64_t begin, int64_t end) {
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
        Barrier& barrier = team.barriers[coords.barrier(p.plan)];
        const int64_t first = shape.reverse ? shape.T - 1 : 0, next = shape.reverse ? -1 : 1;
        load_initial_state(n, begin, end);
        reset_states(first, begin, end);
        wait(barrier, p.plan.panels);
        int64_t running = 0; // rows active at the previous step
        for (int64_t k = 0; k < shape.T; ++k) {
            const int64_t t = first + k * next, active = rows.active(t);
            set_step_pointers(n, t, min_of(running, active), active);
            running = active;
            step(n, t, active);
            zero_padding(n, t, active, begin, end);
            reset_states(t + next, begin, end);
            wait(barrier, p.plan.panels);
            if (has_to_stop(team, active * (end - begin) * G * (D + I))) return;
        }
        store_final_state(n, begin, end);
        stream_fence();
    }
};

// Whether the kernel should compute W x itself, because a second product is cheaper than the memory traffic of wx: if
// AMX tiles are available, the batch has enough rows, and both matrices of a head fit the second-level cache. Tiles
// read rows of x unpacked.
template <class S> bool multiplies_x(const RnnShape& s, int64_t I) {
    constexpr int64_t kMinRows = 8, kMaxBytes = 3 << 19, kOneBlock = 768; // the sum must be one block of block_of_sum
    const int64_t G = cell_size(s.cell).gates;
    const bool is_plain = !s.lengths && !s.offsets && !s.starts;
    return on_tiles<S> && is_plain && s.B >= kMinRows && I == panel_depth<S>(I) && I <= kOneBlock &&
           (s.D + I) * G * s.D * int64_t(sizeof(S)) <= kMaxBytes;
}

template <class S, class C> size_t forward_workspace(const RnnShape& shape, const RnnPlan& plan, int64_t I) {
    RnnForward<S> p;
    p.shape = shape;
    p.x.width = I;
    p.plan = plan;
    Forward<S, C> f(p, 0);
    Arena arena{nullptr};
    f.lay_out(arena, 0);
    return size_t(arena.used);
}

template <class S, class C> void forward(const RnnForward<S>& p, Team team) {
    Forward<S, C> f(p, team.id);
    if (!p.is_packed) f.pack(team);
    wait(team.barriers[team.size - 1], team.size); // the last barrier belongs to no group: see run_head
    Range heads = share(p.shape.N, f.coords.head_group, p.plan.heads);
    for (int64_t n = heads.begin; n < heads.end; ++n) f.run_head(n, team);
}

// The plan with the fewest estimated cycles per step; in a tie, the one with the most parallel heads, as these share
// nothing, while rows and panels of one head sum their gradient of r together. Cache sizes and rates are those of
// current x86 server cores; they affect only speed, not results.
template <class S> RnnPlan rnn_plan(const RnnShape& shape, bool backward, int threads) {
    constexpr double kMacsPerCycle = on_tiles<S> ? 512 : (sizeof(S) == 2 ? 4 : 2) * lanes<S>, kBarrier = 500,
                     kCell = 25, kStart = 8000;
    constexpr double kL1 = 32 << 10, kL2 = 768 << 10, kL2Bytes = 40, kL3Bytes = 20;
    const double G = double(cell_size(shape.cell).gates);
    const int64_t panels = max_of(1, ceil_div(shape.D, lanes<S> * (backward ? 4 : panel_units(int(G)))));
    auto cycles = [&](int heads, int row_groups, int panel_groups) {
        const double rows = ceil_div(shape.B, row_groups), units = double(ceil_div(panels, panel_groups)) / panels;
        const double elements = G * shape.D * shape.D * units, bytes = elements * sizeof(S);
        const double passes = ceil_div(int64_t(rows), rows_of_tile<S, 4>), arithmetic = rows * elements / kMacsPerCycle;
        const double traffic = bytes <= kL1 ? 0 : passes * bytes / kL2Bytes + (bytes <= kL2 ? 0 : bytes / kL3Bytes);
        const double cells = rows * G * shape.D * units / lanes<S> * kCell;
        const double step = (arithmetic > traffic ? arithmetic : traffic) + cells + (panel_groups > 1 ? kBarrier : 0);
        return ceil_div(shape.N, heads) * step * shape.T + (heads * row_groups * panel_groups > 1 ? kStart : 0);
    };
    RnnPlan best;
    double smallest = cycles(1, 1, 1);
    for (int h = int(min_of(threads, shape.N)); h >= 1; --h)
        for (int r = 1; r * h <= threads && r <= shape.B; ++r)
            for (int c = 1; c * r * h <= threads && c <= panels; ++c)
                if (const double cost = cycles(h, r, c); cost < smallest) {
                    smallest = cost;
                    best = {h, r, c};
                }
    return best;
}

} // namespace fastiter::rnn::FASTITER_LEVEL
