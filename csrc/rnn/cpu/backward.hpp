// Backward pass of the recurrences: for each step, the derivative of the cell gives the gradients dp of its products,
// and a tile of dp times a panel of r gives the gradient that flows back into h. The tile's accumulators feed the next
// cell directly.
#pragma once
#include "rnn/cpu/gradient_block.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {
template <class S, class C> struct Backward {
    using T = accumulate_t<S>;
    static constexpr int W = lanes<T>, G = C::gates, states = C::states, U = GradientBlock<S>::U,
                         R = rows_of_tile<S, U>;
    static constexpr int kOneRow = panels_of_one_row<S>(U), kTile = max_of(R, kOneRow) * U; // vectors of units
    static constexpr int64_t kPanelUnits = U * W;

    const RnnBackward<S>& p;
    const RnnShape& shape = p.shape;
    const int64_t D = shape.D, Dp = round_up(D, W), panels = ceil_div(D, kPanelUnits);
    const int64_t db_stride = G * Dp + kFreeAfterDb;
    const ThreadCoords coords;
    const Rows rows;
    GradientBlock<S> visits;
    const int64_t ds_of_state = visits.lines * Dp;
    TileRegisters registers;
    S* packed;  // r as [head][panel][gate * D + d][vector of units][lane]
    T *ds, *db; // [state][row][unit]; [head][batch row][gate][unit]
    const bool streams = exceeds_caches<S>(shape, G), sums_b = p.db || p.db_rows;
    const Bound<S> bound_h{shape.clip_state};
    const Bound<T> bound_dh{shape.clip_grad};

    Backward(const RnnBackward<S>& params, int thread, bool adds_r)
        : p(params), coords(p.plan, thread), rows(p.shape, coords.row_group, p.plan.rows), visits(p, G, adds_r) {
        Arena arena{static_cast<char*>(p.workspace)};
        lay_out(arena, thread);
    }

    void lay_out(Arena& arena, int thread) {
        packed = arena.take<S>(shape.N * panels * panel_size());
        db = p.db_rows ? p.db_rows : arena.take<T>(shape.N * shape.B * db_stride);
        for (int group = 0; group < p.plan.heads; ++group) {
            visits.lay_out(arena, group == coords.head_group);
            T* ds_of_group = arena.take<T>(states * ds_of_state);
            if (group == coords.head_group) ds = ds_of_group;
        }
        for (int i = 0; i < p.plan.threads(); ++i) {
            auto* terms = arena.take<typename GradientBlock<S>::Term>(
                visits.adds_r ? visits.parts.groups * visits.max_terms() : 0);
            StepPointers* line_of_thread = arena.take<StepPointers>(ceil_div(shape.B, p.plan.rows));
            auto* place_of_thread = arena.take<RowPartition::Place>(ceil_div(shape.B, p.plan.rows));
            if (i == thread) {
                visits.terms = terms;
                line = line_of_thread;
                place = place_of_thread;
            }
        }
    }

    int64_t panel_size() const { return panel_depth<S>(G * D) * kPanelUnits; }
    int vectors_of(int64_t panel) const { return visits.vectors_of(panel); }
    S* dp_line(int64_t slot, int64_t i) const { return visits.dp_line(slot, rows.scratch + i); }
    T* ds_line(int state, int64_t i) const { return ds + state * ds_of_state + (rows.scratch + i) * Dp; }
    T* db_line(int64_t n, int64_t row) const { return db + (n * shape.B + row) * db_stride; }

    void pack_panel(int64_t n, int64_t panel) {
        const int nv = vectors_of(panel);
        S* out = packed + (n * panels + panel) * panel_size();
        for (int64_t k = 0; k < G * D; k += 2)
            for (int v = 0; v < nv; ++v) {
                const int64_t unit = panel * kPanelUnits + v * W;
                pack_lines(out + side_by_side<S> * v * W, nv * W, k, G * D, [&](int64_t i) {
                    return load_up_to(p.r + ((i / D * shape.N + n) * D + i % D) * D + unit, D - unit);
                });
            }
        clear_rest_of_panel(out, G * D, nv * W);
    }

    void pack(Team team) {
        Range mine = share(shape.N * panels, team);
        for (int64_t i = mine.begin; i < mine.end; ++i) pack_panel(i / panels, i % panels);
    }

    // Copies the gradients of the final states and clears the sums of db.
    void load_final_gradients(int64_t n, int64_t begin, int64_t end) {
        for (int64_t i = 0; i < rows.count; ++i) {
            const int64_t row = rows.row(i);
            place[i] = visits.parts.place_of(rows.position(i));
            auto copy = [&](const auto* last, T* line) {
                if (last) last += (row * shape.N + n) * D;
                for (int64_t u = begin; u < end; u += W)
                    pack_line(last ? last + u : nullptr, last ? end - u : 0, line + u);
            };
            if (p.dh_after)
                copy(p.dh_after, ds_line(0, i));
            else
                copy(p.dlast.h, ds_line(0, i));
            for (int k = 1; k < states; ++k) copy(p.dlast.others[k - 1], ds_line(k, i));
            for (int slot = 0; slot < visits.slots && begin == 0; ++slot)
                clear(dp_line(slot, i), G * D, panel_depth<S>(G * D));
            for (int g = 0; g < G && !p.db_rows; ++g)
                for (int64_t u = begin; u < end; u += W) store(db_line(n, row) + g * Dp + u, vec<T>{});
        }
    }

    // The gradient of h passed back from the next step, or that of the final state
    FASTITER_INLINE vec<T> carried(vec<T> through_r, int64_t i, int64_t u, bool product) {
        const vec<T> dh = load(ds_line(0, i) + u) + through_r;
        if (!bound_dh.is_finite || !product) return dh;
        return bound_dh.value > 0 ? clip<T>(dh, bound_dh.value) : vec<T>{}; // 0 lets no NaN through
    }

    // Pointers of one row at one step, to unit 0; nullptr: zeros, or not requested.
    struct StepPointers {
        bool is_reset;
        PerState<const S*, const T*> before, now, dstates;
        const T* saved;
        S *dx, *dq, *dp, *h; // h: where the state before the step is saved
        T *ds, *sum;
    };

    StepPointers* line;         // for each of the thread's rows at one step
    RowPartition::Place* place; // where h of the same rows is saved
    // Offset of each pointer, in the order of for_each_place, to the same row's data at the next visited step
    int64_t ahead_of[2 * states + 3];
    int64_t slot = 0, slot_before = 0; // buffer of dp for this visited step and for the previous one

    // Calls f(pointer, array, index) for each pointer of a row into an array over time.
    template <class F> FASTITER_INLINE void for_each_place(StepPointers& at, F f) const {
        f(at.now.h, p.states.h, 0);
        f(at.dstates.h, p.dstates.h, states);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) {
            f(at.now.others[k - 1], p.states.others[k - 1], k);
            f(at.dstates.others[k - 1], p.dstates.others[k - 1], states + k);
        }
        f(at.saved, p.saved, 2 * states);
        f(at.dx, p.dwx, 2 * states + 1);
        f(at.dq, p.dq, 2 * states + 2);
    }

    bool needs_before(int k) const { return C::needs_before[k] || (k == 0 && visits.adds_r); }

    void look_ahead(int64_t t) {
        StepPointers any;
        for_each_place(any, [&](auto&, const auto& all, int index) {
            ahead_of[index] = line_ahead(all, shape, t, shape.reverse ? 1 : -1);
        });
    }

    // Sets a row's pointers for its first step; advances them for later steps.
    void begin_line(int64_t n, int64_t t, int64_t i) {
        line[i].ds = ds_line(0, i);
        line[i].sum = sums_b ? db_line(n, rows.row(i)) : nullptr;
        for_each_place(line[i], [&](auto*& from, const auto& all, int) {
            from = all.data ? line_of(all, shape, rows.row(i), t) + n * all.head : nullptr;
        });
    }
    FASTITER_INLINE void advance_pointers(int64_t i) {
        for_each_place(line[i], [&](auto*& from, const auto&, int index) { from += ahead_of[index]; });
    }

    // Sets the pointers and flags of this step that do not simply advance.
    FASTITER_INLINE void complete_pointers(int64_t n, int64_t t, int64_t i) {
        const int64_t row = rows.row(i);
        const bool is_first = shape.reverse ? t + 1 == rows.length(i) : t == 0;
        StepPointers& at = line[i];
        at.dp = dp_line(slot, i);
        at.h = visits.h_line(slot, place[i]);
        at.is_reset = shape.is_reset(row, t);
        auto find = [&](int k, const auto* now, const auto* first, int64_t to) -> decltype(now) {
            if (!needs_before(k) || at.is_reset) return nullptr;
            return !is_first ? now + to : first ? first + (row * shape.N + n) * D : nullptr;
        };
        at.before.h = find(0, at.now.h, p.first.h, ahead_of[0]);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k)
            at.before.others[k - 1] = find(k, at.now.others[k - 1], p.first.others[k - 1], ahead_of[k]);
    }

    using TileAddresses = Addresses<R, C::saved + G + 1 + 3 * states>;

    // Collects the addresses to prefetch for a tile from unit u on: inputs of the cells, and outputs, as a store that
    // waits for its cache line blocks all later ones.
    FASTITER_INLINE void ask(const StepPointers* tile, int64_t u, TileAddresses& addresses) const {
        auto add = [&](auto place) {
            addresses.add([&](int i) -> const void* {
                const auto* from = place(tile[i]);
                return from ? static_cast<const void*>(from + u) : tile[i].dp; // the tile's dp, which is in cache
            });
        };
        for (int g = 0; g < C::saved; ++g) add([&](const StepPointers& line) { return line.saved + g * p.saved.gate; });
        for (int g = 0; g < G && !streams; ++g) add([&](const StepPointers& line) { return line.dx + g * p.dwx.gate; });
        if (C::own_dp && p.dq.data) add([](const StepPointers& line) { return line.dq; });
        if (needs_before(0)) add([](const StepPointers& line) { return line.before.h; });
        if (C::needs_now[0]) add([](const StepPointers& line) { return line.now.h; });
        if (p.dstates.h.data) add([](const StepPointers& line) { return line.dstates.h; });
        for (int k = 0; k < states - 1; ++k) {
            if (C::needs_before[k + 1]) add([&](const StepPointers& line) { return line.before.others[k]; });
            if (C::needs_now[k + 1] && !C::needs_before[k + 1])
                add([&](const StepPointers& line) { return line.now.others[k]; });
            if (p.dstates.others[k].data) add([&](const StepPointers& line) { return line.dstates.others[k]; });
        }
    }

    // Inputs of the cell for one vector of units, besides the gradients
    struct Values {
        vec<T> keep[4], before[states], now[states];
    };

    FASTITER_INLINE Values values_at(const StepPointers& line, int64_t u) {
        const int64_t count = D - u;
        Values x;
        auto read = [&](int k, const auto* before, const auto* now) __attribute__((always_inline)) {
            x.before[k] = before ? load_up_to(before + u, count) : vec<T>{};
            if (C::needs_now[k]) x.now[k] = load_up_to(now + u, count);
        };
        read(0, line.before.h, line.now.h);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) read(k, line.before.others[k - 1], line.now.others[k - 1]);
#pragma GCC unroll 4
        for (int g = 0; g < C::saved; ++g) x.keep[g] = load_up_to(line.saved + g * p.saved.gate + u, count);
        return x;
    }

    FASTITER_INLINE void prepare_cell(const StepPointers& line, int64_t u, vec<T>* ahead) {
        const Values x = values_at(line, u);
        C::prepare(x.keep, x.before, x.now, ahead);
    }

    // The cell for one vector of units of one row: uses ds and the gradient of h, and writes the gradients of x and p.
    FASTITER_INLINE void apply_cell(const StepPointers& line, vec<T> dh, int64_t u, const vec<T>* ahead) {
        const int64_t count = D - u;
        const Values x = values_at(line, u);
        vec<T> d[states], dx[G], products[G];
        auto gradient = [&](int k, const auto* dstate) __attribute__((always_inline)) {
            d[k] = k == 0 ? dh : load(line.ds + k * ds_of_state + u);
            if (dstate) d[k] += load_up_to(dstate + u, count);
        };
        gradient(0, line.dstates.h);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) gradient(k, line.dstates.others[k - 1]);
        if (bound_h.is_finite)
            d[0] = select<T>(magnitude<T>(load_up_to(line.now.h + u, count)) < bound_h.value, d[0], vec<T>{});
        C::backward(x.keep, x.before, x.now, ahead, d, dx, products);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
            products[g] = rounded<S>(C::own_dp ? products[g] : dx[g]);
            put_up_to(line.dx + g * p.dwx.gate + u, dx[g], count, streams);
            store_up_to(line.dp + g * D + u, line.is_reset ? vec<T>{} : products[g], count);
            if (sums_b) store(line.sum + g * Dp + u, load(line.sum + g * Dp + u) + products[g]);
        }
        if (sizeof(S) > 2 && visits.adds_r) store(line.h + visits.to_unit(u), x.before[0]);
        if (C::own_dp && line.dq) store_up_to(line.dq + u, products[G - 1], count);
#pragma GCC unroll 4
        for (int k = 0; k < states; ++k) store(line.ds + k * ds_of_state + u, line.is_reset ? vec<T>{} : d[k]);
    }

    FASTITER_INLINE void store_first_gradient(vec<T> dh, int64_t n, int64_t i, int64_t u) {
        auto write = [&](auto* first, vec<T> d) {
            if (first) store_up_to(first + (rows.row(i) * shape.N + n) * D + u, d, D - u);
        };
        write(p.dfirst.h, dh);
        write(p.dh_before, dh);
        for (int k = 1; k < states; ++k) write(p.dfirst.others[k - 1], load(ds_line(k, i) + u));
    }

    // Rows [first, first + count): the product of r and the previous visit's dp, then the cell of this step. Without a
    // step, the previous visit was the rows' first step, and the result is the gradient of their initial states. `some`
    // panels; if several, all are full.
    void tile(int64_t n, bool has_step, int64_t first, int count, int64_t panel, int some, bool product) {
        const int V = some * vectors_of(panel);
        const int64_t unit = panel * kPanelUnits;
        const StepPointers* mine = line + first;
        TileAddresses addresses(count);
        if (has_step) ask(mine, unit, addresses);
        vec<T> sums[kTile];
        if (!product)
            for (vec<T>& sum : sums) sum = vec<T>{};
        else
            multiply<S>(registers, count, vectors_of(panel), some,
                        {dp_line(slot_before, first), visits.dp_stride, packed + (n * panels + panel) * panel_size(),
                         panel_size(), G * D, nullptr, sums, addresses.fetch(V * W * int(sizeof(T)))});
        for (int i = 0; i < count; ++i) {
            vec<T> ahead[kOneRow * U][C::ahead + 1];
            for (int v = 0; v < V && C::ahead && has_step; ++v) prepare_cell(mine[i], unit + v * W, ahead[v]);
            for (int v = 0; v < V; ++v) {
                const int64_t u = unit + v * W;
                const vec<T> dh = carried(sums[i * V + v], first + i, u, product);
                if (has_step)
                    apply_cell(mine[i], dh, u, ahead[v]);
                else
                    store_first_gradient(dh, n, first + i, u);
            }
        }
    }

    void visit(int64_t n, int64_t k, bool has_step, Range some, Range mine, bool product) {
        const int64_t count = some.end - some.begin, first = some.begin;
        if (count == 1)
            return zigzag_in_groups(kOneRow, mine, D / kPanelUnits, k,
                                    [&](int64_t j, int panels_) { tile(n, has_step, first, 1, j, panels_, product); });
        zigzag(mine, k, [&](int64_t j) {
            for_each_tile(tile_rows_of<S>(R, G * D), count,
                          [&](int64_t i, int some_) { tile(n, has_step, first + i, some_, j, 1, product); });
        });
    }

    // Sets the pointers of the rows that have step t; the first `still_active` of them were active at the previous
    // visit.
    void set_step_pointers(int64_t n, int64_t t, int64_t still_active, int64_t active) {
        for (int64_t i = 0; i < still_active; ++i) advance_pointers(i);
        for (int64_t i = still_active; i < active; ++i) begin_line(n, t, i);
        look_ahead(t);
        for (int64_t i = 0; i < active; ++i) complete_pointers(n, t, i);
    }

    void zero_padding(int64_t n, int64_t t, int64_t active, int64_t begin, int64_t end) {
        for (int64_t i = active; i < rows.count && has_padding(shape); ++i) {
            S* out = line_of(p.dwx, shape, rows.row(i), t) + n * p.dwx.head;
            for (int g = 0; g < G; ++g) clear(out + g * p.dwx.gate, begin, end);
            if (p.dq.data) clear(line_of(p.dq, shape, rows.row(i), t) + n * p.dq.head, begin, end);
        }
    }

    void run_head(int64_t n, Team team) {
        const Range mine = share(panels, coords.panel_group, p.plan.panels);
        const int64_t begin = mine.begin * kPanelUnits, end = min_of(D, mine.end * kPanelUnits);
        Barrier& barrier = team.barriers[coords.barrier(p.plan)];
        load_final_gradients(n, begin, end);
        if (visits.adds_r && !p.dr_is_clear) visits.clear_dr(n, coords);
        int64_t running = 0; // rows active at the previous visit
        for (int64_t k = 0; k < shape.T; ++k) {
            const int64_t t = visits.step_of(k), active = rows.active(t);
            const int64_t still_active = min_of(running, active);
            slot_before = std::exchange(slot, visits.slot_of(k));
            set_step_pointers(n, t, still_active, active);
            visit(n, k, true, {0, still_active}, mine, true);
            visit(n, k, true, {still_active, active}, mine, false);
            visit(n, k, false, {still_active, running}, mine, true);
            zero_padding(n, t, active, begin, end);
            if (shape.reverse && k == 0) visit(n, k, false, {active, rows.count}, mine, false); // rows without steps
            running = active;
            wait(barrier, p.plan.panels);
            if (has_to_stop(team, 2 * active * (end - begin) * G * D)) return;
            if (visits.adds_r && visits.ends_block(k)) visits.add_block(n, k, coords, team);
        }
        slot_before = slot;
        visit(n, shape.T, false, {0, running}, mine, true);
        if (!shape.reverse || shape.T == 0) visit(n, shape.T, false, {running, rows.count}, mine, false);
        stream_fence();
        wait(barrier, p.plan.panels);
    }

    // Sums the rows of db in batch order, whichever thread computed them.
    void sum_db(Team team) {
        Range mine = share(shape.N * G, team);
        for (int64_t i = mine.begin; i < mine.end; ++i) {
            const int64_t n = i / G, g = i % G;
            for (int64_t u = 0; u < D; u += W) {
                vec<T> sum{};
                for (int64_t row = 0; row < shape.B; ++row) sum += load(db_line(n, row) + g * Dp + u);
                store_up_to(p.db + (g * shape.N + n) * D + u, sum, D - u);
            }
        }
    }
};

template <class S, class C> size_t backward_workspace(const RnnShape& shape, const RnnPlan& plan, bool adds_r) {
    RnnBackward<S> p;
    p.shape = shape;
    p.plan = plan;
    Backward<S, C> f(p, 0, adds_r);
    Arena arena{nullptr};
    f.lay_out(arena, 0);
    return size_t(arena.used);
}

template <class S, class C> void backward(const RnnBackward<S>& p, Team team) {
    Backward<S, C> f(p, team.id, p.dr != nullptr);
    if (!p.is_packed) f.pack(team);
    wait(team.barriers[team.size - 1], team.size); // the last barrier belongs to no group
    Range heads = share(p.shape.N, f.coords.head_group, p.plan.heads);
    for (int64_t n = heads.begin; n < heads.end; ++n) f.run_head(n, team);
    if (!p.db) return;
    wait(team.barriers[team.size - 1], team.size);
    f.sum_db(team);
}

} // namespace fastiter::rnn::FASTITER_LEVEL
