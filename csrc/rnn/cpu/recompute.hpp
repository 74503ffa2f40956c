// Recomputes what the forward pass did not store, the saved values and the states other than h, from h of all steps. No
// product depends on the previous step then: a tile processes consecutive steps of a row, and only the elementwise part
// of the cell is sequential. Sums and cells are bitwise those of forward.hpp.
#pragma once
#include "rnn/cpu/forward.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {
template <class S, class C> struct Recompute : Forward<S, C> {
    using Base = Forward<S, C>;
    using T = accumulate_t<S>;
    using Base::D, Base::G, Base::kPanelUnits, Base::mine, Base::p, Base::rows, Base::shape, Base::states, Base::U,
        Base::W;
    static constexpr int R = rows_of_tile<S, G * U>;
    static constexpr int64_t kBlockBytes = 128 << 10; // bytes of h per block: fits the second level beside a panel

    // One step of one row
    struct Step {
        int64_t row, t;
        bool is_first, is_reset;
    };
    const int64_t stride = apart<S>(D), capacity = max_of(R, kBlockBytes / (stride * int64_t(sizeof(S))));
    Step* steps = nullptr; // steps of a block, in each row's order of time
    typename Base::StepPointers* lines_of_steps = nullptr;
    S* h_before = nullptr; // h before the same steps

    Recompute(const RnnForward<S>& params, int thread) : Base(params, thread) {
        Arena arena{static_cast<char*>(p.workspace)};
        lay_out(arena, thread);
    }

    void lay_out(Arena& arena, int thread) {
        Base::lay_out(arena, thread);
        for (int i = 0; i < p.plan.threads(); ++i) {
            Step* steps_of_thread = arena.take<Step>(capacity);
            auto* lines_of_thread = arena.take<typename Base::StepPointers>(capacity);
            S* h_of_thread = arena.take<S>(capacity * stride);
            if (i == thread) {
                steps = steps_of_thread;
                lines_of_steps = lines_of_thread;
                h_before = h_of_thread;
            }
        }
    }

    // A state of head n before the step; nullptr: zeros
    template <class X, class Y>
    const X* before(const Step& step, int64_t n, const X* first, const Steps<Y>& all) const {
        if (step.is_reset) return nullptr;
        if (step.is_first) return first ? first + (step.row * shape.N + n) * D : nullptr;
        return line_of(all, shape, step.row, shape.reverse ? step.t + 1 : step.t - 1) + n * all.head;
    }

    void copy_h(int64_t i, int64_t n) {
        const S* h = before(steps[i], n, p.first.h, p.known_h);
        S* to = h_before + i * stride;
        for (int64_t u = 0; u < D; u += W) pack_line(h ? h + u : nullptr, h ? D - u : 0, to + u);
        clear(to, round_up(D, W), panel_depth<S>(D));
    }

    // Steps [first, first + count) times a panel
    void tile(int64_t n, int64_t first, int count, int64_t panel) {
        const int units = this->units_of(panel);
        const int64_t unit = panel * kPanelUnits;
        const typename Base::StepPointers* line = lines_of_steps + first;
        typename Base::TileAddresses addresses(count);
        for (int g = 0; g < G; ++g)
            for (int64_t d = unit; d < unit + units * W; d += W)
                addresses.add([&](int row) { return line[row].x + g * p.wx.gate + d; });
        this->ask_for_outputs(line, unit, units, addresses);
        vec<T> sums[R * U * G], state[U][states] = {};
        this->add_products(n, panel, 1, h_before + first * stride, stride, count, addresses.fetch(1), sums);
        for (int i = 0; i < count; ++i)
            for (int v = 0; v < units; ++v) {
                const Step& step = steps[first + i];
                const int64_t d = unit + v * W;
                typename Base::Work w;
#pragma GCC unroll 4
                for (int k = 1; k < states; ++k) {
                    const Steps<T>& all = p.states.others[k - 1];
                    if (i > 0 && !step.is_first && !step.is_reset) continue;
                    const T* s = before(step, n, p.first.others[k - 1], all);
                    state[v][k] = s ? load_up_to(s + d, D - d) : vec<T>{};
                }
                this->begin_cell(w, line[i], d, nullptr, &sums[(i * units + v) * G], state[v]);
                C::finish(w.state, w.keep);
                this->keep(w, line[i], d);
#pragma GCC unroll 4
                for (int k = 1; k < states; ++k) state[v][k] = w.state[k];
            }
    }

    void run_block(int64_t n, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
            copy_h(i, n);
            lines_of_steps[i] = this->pointers_at(n, steps[i].t, i, steps[i].row);
        }
        for (int64_t j = mine.begin; j < mine.end; ++j)
            for_each_tile<R>(count, [&](int64_t first, int tile_count) { tile(n, first, tile_count, j); });
    }

    void run_head(int64_t n, Team team) {
        int64_t count = 0;
        for (int64_t i = 0; i < rows.count; ++i)
            for (int64_t row = rows.row(i), length = rows.length(i), k = 0; k < length; ++k) {
                const int64_t t = shape.reverse ? length - 1 - k : k;
                steps[count++] = {row, t, k == 0, shape.is_reset(row, t)};
                if (count < capacity) continue;
                run_block(n, std::exchange(count, 0));
                if (has_to_stop(team, capacity * G * D * D)) return;
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
    Range heads = share(p.shape.N, f.coords.head_group, p.plan.heads);
    for (int64_t n = heads.begin; n < heads.end; ++n) f.run_head(n, team);
}

} // namespace fastiter::rnn::FASTITER_LEVEL
