// Buffers the last few steps' dp and h(t-1), so that dr += dp^T h runs as one product per block of steps, from cache.
#pragma once
#include "rnn/cpu/partition.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

// Number of steps buffered for the gradient of r: 128 rows, which fill the first-level cache, or one step. It does not
// depend on threads or chunks, so neither do the sums.
inline int64_t steps_of_block(const RnnShape& s) { return max_of(1, 128 / max_of(1, s.B)); }

template <class S> struct GradientBlock {
    using T = accumulate_t<S>;
    static constexpr int W = lanes<T>, U = 4, R = tile_rows<U>; // U: vectors of units per panel
    static constexpr int64_t kPanelUnits = U * W;

    // One row at one visited step: dp, and the offset of its h within a panel
    struct Term {
        const S* dp;
        int64_t h;
    };

    const RnnBackward<S>& p;
    const RnnShape& shape = p.shape;
    const bool adds_r;
    const int64_t D = shape.D, gates, panels = ceil_div(D, kPanelUnits),
                  lines = Rows::scratch_lines(shape, p.plan.rows);
    const int64_t dp_stride = apart<S>(gates * D);
    const int64_t block = steps_of_block(shape), slots = adds_r ? max_of(2, block) : 2;
    // Parts of the rows with separate sums, so that threads with rows of different parts share no data until the end.
    // They do not depend on the groups of rows, so neither do the sums.
    const RowPartition parts{shape, parts_of_rows(shape)}, groups{shape, p.plan.rows};
    const int64_t rows_of_part = ceil_div(shape.B, parts.groups); // at most
    // Row stride of h, and panel stride, which includes one padding row as in apart()
    const int64_t line_of_h = panels > 1 ? kPanelUnits : round_up(D, W),
                  panel_of_h = (slots * rows_of_part + 1) * line_of_h;
    const Rows every_row{shape, 0, 1};
    S* dp = nullptr;        // [visit][row][gate * D + d]
    S* h = nullptr;         // h before the same steps, [part][panel][visit][row of the part][vector of units][lane]
    Term* terms = nullptr;  // terms of each part's block, for one thread
    bool are_known = false; // the terms are already those of a whole block

    GradientBlock(const RnnBackward<S>& params, int gates_, bool adds_r_) : p(params), adds_r(adds_r_), gates(gates_) {}

    // Takes memory for a group of heads, this thread's or another's.
    void lay_out(Arena& arena, bool is_mine) {
        S* dp_of_group = arena.take<S>(slots * lines * dp_stride);
        S* h_of_group = arena.take<S>(adds_r ? parts.groups * size_of_part() : 0);
        if (is_mine) {
            dp = dp_of_group;
            h = h_of_group;
        }
    }

    // The parts of h are separated by padding rows, like the groups of rows: see Rows::kGap.
    int64_t size_of_part() const { return panels * panel_of_h + Rows::kGap * line_of_h; }
    int vectors_of(int64_t panel) const { return int(min_of(U, ceil_div(D - panel * kPanelUnits, W))); }
    // Buffer slot of a visited step: different from the slot of the previous one, which this step reads. The steps of a
    // whole block always have the same slots, in order.
    int64_t slot_of(int64_t visit) const {
        return adds_r && block > 1 ? block - 1 - steps_left(visit) % block : visit & 1;
    }
    S* dp_line(int64_t slot, int64_t line) const { return dp + (slot * lines + line) * dp_stride; }
    S* h_line(int64_t slot, RowPartition::Place place) const {
        return h + place.group * size_of_part() + (slot * rows_of_part + place.row) * line_of_h;
    }
    // Offset from a row of h to the given unit, in the panel that contains it
    FASTITER_INLINE int64_t to_unit(int64_t unit) const {
        const uint64_t u = uint64_t(unit), panel = u / kPanelUnits;
        return int64_t(panel) * panel_of_h + int64_t(u % kPanelUnits);
    }

    // Offset of row `unit` of a gate in a part of dr
    int64_t row_of_dr(int part, int64_t n, int64_t gate, int64_t unit) const {
        return (((part * gates + gate) * shape.N + n) * D + unit) * D;
    }

    int64_t step_of(int64_t visit) const { return shape.reverse ? visit : shape.T - 1 - visit; }
    // Blocks are counted from the last step of all chunks.
    int64_t steps_left(int64_t visit) const { return p.steps_after + shape.T - 1 - visit; }
    int64_t first_of_block(int64_t visit) const { return max_of(0, visit + 1 - (block - steps_left(visit) % block)); }
    bool ends_block(int64_t visit) const { return steps_left(visit) % block == 0 || visit == shape.T - 1; }

    int64_t max_terms() const { return block * rows_of_part; } // upper bound for one part
    Term* terms_of(int part) const { return terms + part * max_terms(); }

    // Lists a part's terms of this block up to `visit`: step by step, row by row.
    int64_t find_terms(int part, int64_t visit) {
        Term* entries = terms_of(part);
        int64_t count = 0;
        for (int64_t k = first_of_block(visit); k <= visit; ++k) {
            const int64_t slot = slot_of(k), active = every_row.active(step_of(k));
            for (int64_t row = 0, rows = parts.count(part); row < rows; ++row) {
                const int64_t position = parts.position_of(part, row);
                if (position >= active) break;
                const RowPartition::Place place = groups.place_of(position);
                const int64_t line = Rows::line_of_group(shape, place.group, groups.groups) + place.row;
                entries[count++] = {dp_line(slot, line), (slot * rows_of_part + row) * line_of_h};
            }
        }
        return count;
    }

    // Adds the products of the terms' dp and h to rows [first, first + ROWS) of a part of dr, for one panel.
    template <int ROWS, int NV>
    void add_tile(int part, int64_t n, int64_t visit, int64_t entries, int64_t first, int64_t panel) {
        const bool goes_on = p.dr_block && first_of_block(visit) == 0;
        const bool is_finished = !p.dr_block || steps_left(visit) % block == 0;
        vec<T> acc[ROWS][NV] = {};
        const int64_t column = panel * kPanelUnits, count = D - column;
        int64_t at[ROWS], gate = first / D, unit = first % D; // rows may span several gates
        for (int i = 0; i < ROWS; ++i) {
            at[i] = row_of_dr(part, n, gate, unit) + column;
            if (++unit == D) {
                ++gate;
                unit = 0;
            }
        }
        for (int i = 0; i < ROWS && goes_on; ++i)
            for (int v = 0; v < NV; ++v) acc[i][v] = load_up_to(p.dr_block + at[i] + v * W, count - v * W);
        const S* of_panel = h_line(0, {part, 0}) + panel * panel_of_h;
        const Term* term = terms_of(part);
#pragma GCC unroll 2
        for (int64_t k = 0; k < entries; ++k)
            multiply_add<T, ROWS, NV, 1>(term[k].dp + first, 1, 0, of_panel + term[k].h, 0, 1, acc);
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < NV; ++v) {
                T* sum = p.dr + at[i] + v * W;
                if (is_finished) store_up_to(sum, load_up_to(sum, count - v * W) + acc[i][v], count - v * W);
                if (p.dr_block)
                    store_up_to(p.dr_block + at[i] + v * W, is_finished ? vec<T>{} : acc[i][v], count - v * W);
            }
    }

    void add_part(int part, int64_t n, int64_t visit, Range mine) {
        const int64_t entries = are_known ? block * parts.count(part) : find_terms(part, visit);
        for (int64_t j = 0; j < panels; ++j)
            for_each_tile<R>(mine.end - mine.begin, [&](int64_t first, int count) {
                with_count<U>(vectors_of(j), [&]<int NV>() {
                    with_count<R>(
                        count, [&]<int ROWS>() { add_tile<ROWS, NV>(part, n, visit, entries, mine.begin + first, j); });
                });
            });
    }

    // A thread's share of the sums: rows of dr, in some of the parts
    struct Share {
        int part, end;
        Range rows;
        int threads; // threads that share these parts
    };
    Share share_of(const ThreadCoords& coords) const {
        const int shared = p.plan.rows / parts.groups; // groups of rows per part
        const bool apart = shared * parts.groups == p.plan.rows;
        const int part = apart ? parts.place_of(groups.position_of(coords.row_group, 0)).group : 0;
        const int group = !apart        ? coords.row_group
                          : shape.order ? coords.row_group / parts.groups
                                        : coords.row_group % shared;
        const int threads = (apart ? shared : p.plan.rows) * p.plan.panels;
        const Range rows = share(gates * D, group * p.plan.panels + coords.panel_group, threads);
        return {part, apart ? part + 1 : parts.groups, rows, threads};
    }

    void clear_dr(int64_t n, const ThreadCoords& coords) {
        const Share mine = share_of(coords);
        for (int part = mine.part; part < mine.end; ++part)
            for (int64_t m = mine.rows.begin; m < mine.rows.end; ++m)
                clear(p.dr + row_of_dr(part, n, m / D, m % D), 0, D);
    }

    void add_block(int64_t n, int64_t visit, const ThreadCoords& coords, Team team) {
        if constexpr (sizeof(S) > 2) {
            const Share mine = share_of(coords);
            const int waiting = mine.threads > 1 ? p.plan.rows * p.plan.panels : 1;
            Barrier& barrier = team.barriers[coords.head_barrier(p.plan)];
            wait(barrier, waiting);
            const bool is_whole = block > 1 && !shape.order && visit + 1 - first_of_block(visit) == block;
            are_known &= is_whole;
            for (int part = mine.part; part < mine.end; ++part) add_part(part, n, visit, mine.rows);
            are_known = is_whole;
            wait(barrier, waiting);
        }
    }
};

} // namespace fastiter::rnn::FASTITER_LEVEL
