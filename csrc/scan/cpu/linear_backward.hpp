// Backward pass (exact reverse) of the linear scan: the same loop in reverse time order, which also computes the
// gradient of a.
#pragma once
#include "scan/cpu/sequences.hpp"

namespace fastiter::scan::FASTITER_LEVEL {
namespace {

constexpr int kNarrow = 4;        // as in linear.cpp
constexpr int64_t kTogether = 64; // steps per partial sum, which limits the growth of rounding errors

enum class Da { none, each, sum };

template <class S, bool Complex, Da kind> struct Backward {
    using T = accumulate_t<S>;
    using N = Numbers<S, Complex>;
    static constexpr int W = lanes<T>;
    const LinearScanGradient<S>& p;
    const bool stream;
    const Team team;

    int64_t columns() const { return columns_of(p.shape); }
    int64_t time(const Sequence& q, int64_t step) const { return p.shape.reverse ? step : q.steps - 1 - step; }
    bool over_time() const { return kind == Da::sum && p.da_sum.time == 0; }

    // Destination of a sequence's sum over its steps
    T* sum_of(const Sequence& q) const {
        return p.workspace ? static_cast<T*>(p.workspace) + q.index * columns()
                           : p.da_sum.data + q.index * p.da_sum.row;
    }

    // begin() and end() are not inlined, nor are the loops over a sequence's steps: the instances for all numbers of
    // sequences share them.
    FASTITER_NOINLINE void begin(const Sequence& q, int64_t column, int64_t width) const {
        const int64_t offset = q.index * columns() + column;
        begin_state(p.dlast ? p.dlast + offset : nullptr, p.dfirst + offset, width);
        if (over_time()) fill_zero(sum_of(q) + column, width);
    }

    FASTITER_NOINLINE void end(const Sequence& q, int64_t column, int64_t width) const {
        zero_padding(p.shape, p.dx, q, column, width);
        zero_padding(p.shape, p.da, q, column, width);
    }

    // The last step of the loop, which uses the initial state, is a partial sum of its own.
    bool sum_ends(const Sequence& q, int64_t k) const { return (k + 1) % kTogether == 0 || k + 2 >= q.steps; }

    void wide(const Sequence& q, int64_t column, int64_t width) const {
        begin(q, column, width);
        wide_steps(q, 0, column, width);
        end(q, column, width);
    }

    FASTITER_NOINLINE void wide_steps(const Sequence& q, int64_t from, int64_t column, int64_t width) const {
        alignas(64) T together[kPieceBytes / sizeof(T)];
        if (over_time()) fill_zero(together, width);
        for (int64_t end; from < q.steps; from = end) {
            end = min_of(q.steps, (from / kTogether + 1) * kTogether);
            wide_part(q, from, end, column, width, together);
            if (has_to_stop(team, kTogether * width)) return;
        }
    }

    FASTITER_NOINLINE void wide_part(const Sequence& q, int64_t from, int64_t to, int64_t column, int64_t width,
                                     T* together) const {
        for (int64_t k = from; k < to; ++k) {
            const int64_t t = time(q, k);
            T* sum = over_time() ? together : at(p.da_sum, q, t, column);
            const uint8_t* reset = at(p.shape.reset, q, t, 0);
            if (reset && *reset)
                wide_step<true>(q, t, column, width, static_cast<const T*>(nullptr), sum);
            else if (k + 1 < q.steps)
                wide_step<false>(q, t, column, width, at(p.h, q, time(q, k + 1), column), sum);
            else
                wide_step<false>(q, t, column, width, p.first ? p.first + q.index * columns() + column : nullptr, sum);
            if (over_time() && sum_ends(q, k)) add(together, sum_of(q) + column, width);
        }
    }

    static void add(T* together, T* sum, int64_t width) {
        for_vectors<T>(width, [&](int64_t c, int64_t n) FASTITER_INLINED {
            store_up_to(sum + c, load_up_to(sum + c, n) + load_up_to(together + c, n), n);
            store_up_to(together + c, vec<T>{}, n);
        });
    }

    template <bool Begins, class H>
    void wide_step(const Sequence& q, int64_t t, int64_t column, int64_t width, const H* earlier, T* sum) const {
        const S *a = at(p.a, q, t, column), *dh = at(p.dh, q, t, column);
        S *dx = at(p.dx, q, t, column), *da = at(p.da, q, t, column);
        T* carry = p.dfirst + q.index * columns() + column;
        const bool stream = this->stream, backwards = !p.shape.reverse;
        const bool fetches = stream || (width < columns() && width * int64_t(sizeof(S)) <= kPieceBytes);
        const int64_t way = backwards ? -1 : 1, next_a = ahead<S>(way * p.a.time, width),
                      next_h = ahead<S>(way * p.h.time, width), next_dh = ahead<S>(way * p.dh.time, width);
        const int64_t before = stream ? numbers_before_line<T>(dx ? dx : da, width, Complex ? 2 : 1) : 0;
        for_vectors_after<T>(before, width, backwards, [&](int64_t c, int64_t n) FASTITER_INLINED {
            if (fetches) {
                fetch(a + c + next_a);
                if (kind != Da::none && earlier) fetch(earlier + c + next_h);
                if (dh) fetch(dh + c + next_dh);
            }
            vec<T> l = load_up_to(carry + c, n);
            if (dh) l = load_up_to(dh + c, n) + l;
            if (dx) put_up_to(dx + c, l, n, stream);
            vec<T> g{};
            if (kind != Da::none && earlier) g = N::conjugate_product(load_up_to(earlier + c, n), l);
            if constexpr (kind == Da::each) put_up_to(da + c, g, n, stream);
            if constexpr (kind == Da::sum && !Begins) store_up_to(sum + c, load_up_to(sum + c, n) + g, n);
            if constexpr (!Begins) l = N::conjugate_product(load_up_to(a + c, n), l);
            store_up_to(carry + c, Begins ? vec<T>{} : l, n);
        });
    }

    // Steps [from, to) of R interleaved sequences, none of which is the sequence's last; partial sums end at `to`.
    template <int V, int R> FASTITER_NOINLINE void narrow(const Sequence* q, int64_t from, int64_t to) const {
        const int64_t way = p.shape.reverse ? 1 : -1;
        auto size = [&](int v) { return v < V - 1 ? int64_t(W) : columns() - (V - 1) * W; };
        const S *a[R], *h[R], *dh[R];
        S *dx[R], *da[R];
        const uint8_t* reset[R];
        vec<T> carry[R][V], together[R][V] = {};
        for (int r = 0; r < R; ++r) {
            const int64_t t = time(q[r], from);
            a[r] = at(p.a, q[r], t, 0);
            h[r] = at(p.h, q[r], t + way, 0);
            dh[r] = at(p.dh, q[r], t, 0);
            dx[r] = at(p.dx, q[r], t, 0);
            da[r] = at(p.da, q[r], t, 0);
            reset[r] = at(p.shape.reset, q[r], t, 0);
            for (int v = 0; v < V; ++v) carry[r][v] = load_up_to(p.dfirst + q[r].index * columns() + v * W, size(v));
        }
        for (int64_t turn = from; turn < to; turn += kTurn) {
            const int64_t turn_end = min_of(turn + kTurn, to);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r)
                for (int64_t k = turn; k < turn_end; ++k) {
                    const int64_t step = (k - from) * way;
                    const bool begins = reset[r] && reset[r][step * p.shape.reset.time];
#pragma GCC unroll 4
                    for (int v = 0; v < V; ++v) {
                        const int64_t c = v * W, n = size(v);
                        vec<T> l = carry[r][v], g{};
                        if (p.dh.data) l = load_up_to(dh[r] + step * p.dh.time + c, n) + l;
                        if (p.dx.data) put_up_to(dx[r] + step * p.dx.time + c, l, n, stream);
                        if (kind != Da::none && !begins)
                            g = N::conjugate_product(load_up_to(h[r] + step * p.h.time + c, n), l);
                        if constexpr (kind == Da::each) put_up_to(da[r] + step * p.da.time + c, g, n, stream);
                        if constexpr (kind == Da::sum) together[r][v] += g;
                        l = N::conjugate_product(load_up_to(a[r] + step * p.a.time + c, n), l);
                        carry[r][v] = begins ? vec<T>{} : l;
                    }
                }
            if (kind == Da::sum && (turn_end % kTogether == 0 || turn_end == to))
                for (int r = 0; r < R; ++r)
                    for (int v = 0; v < V; ++v) {
                        T* sum = sum_of(q[r]) + v * W;
                        store_up_to(sum, load_up_to(sum, size(v)) + together[r][v], size(v));
                        together[r][v] = vec<T>{};
                    }
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) store_up_to(p.dfirst + q[r].index * columns() + v * W, carry[r][v], size(v));
    }

    template <int V, int R> void in_parts(const Sequence* q, int64_t from, int64_t to) const {
        for (int64_t end; from < to; from = end) {
            end = min_of(to, (from / kStepsPerCheck + 1) * kStepsPerCheck);
            narrow<V, R>(q, from, end);
            if (has_to_stop(team, R * kStepsPerCheck * columns())) return;
        }
    }

    template <int V, int R> void group(const Sequence* q) const {
        int64_t shared = q[0].steps - 1;
        bool end_together = true;
        for (int r = 0; r < R; ++r) {
            begin(q[r], 0, columns());
            end_together = end_together && q[r].steps == q[0].steps;
            shared = min_of(shared, q[r].steps - 1);
        }
        if (!end_together) shared = shared / kTogether * kTogether; // a boundary of every sequence's partial sums
        in_parts<V, R>(q, 0, shared);
        for (int r = 0; r < R; ++r) {
            in_parts<V, 1>(q + r, max_of(shared, 0), q[r].steps - 1);
            wide_steps(q[r], max_of(q[r].steps - 1, 0), 0, columns());
            end(q[r], 0, columns());
        }
    }

    template <int V> void groups(int64_t first, int64_t last) const {
        constexpr int R = kNarrow / V;
        Sequence q[R];
        int64_t i = first;
        for (; i + R <= last; i += R) {
            for (int r = 0; r < R; ++r) q[r] = sequence(p.shape, i + r);
            group<V, R>(q);
        }
        for (; i < last; ++i) {
            q[0] = sequence(p.shape, i);
            group<V, 1>(q);
        }
    }

    // Sums da over the rows but not over time: one thread processes all rows of its columns in sequence.
    void over_rows() const {
        const int64_t line = 64 / int64_t(sizeof(S)), widest = kPieceBytes / int64_t(sizeof(T));
        const int64_t parts = max_of(team.size, ceil_div(columns(), widest));
        const int64_t width = round_up(ceil_div(columns(), parts), line);
        for (int64_t column = team.id * width; column < columns(); column += team.size * width) {
            const int64_t n = min_of(width, columns() - column);
            for (int64_t t = 0; t < p.shape.T; ++t) fill_zero(p.da_sum.data + t * p.da_sum.time + column, n);
            for (int64_t i = 0; i < p.shape.B; ++i) wide(sequence(p.shape, i), column, n);
        }
    }

    void run() const {
        if (columns() == 0) return;
        if (kind == Da::sum && !over_time()) {
            over_rows();
        } else {
            const int64_t widest = (over_time() ? kPieceBytes : kWidestBytes) / int64_t(sizeof(T));
            const Units units(p.shape, columns(), widest, 64 / int64_t(sizeof(S)), team);
            const int64_t vectors = ceil_div(columns(), W);
            if (units.blocks > 1 || vectors > kNarrow)
                for (int64_t u = units.first; u < units.last; ++u) {
                    const int64_t column = u % units.blocks * units.width;
                    wide(sequence(p.shape, u / units.blocks), column, min_of(units.width, columns() - column));
                }
            else if (vectors == 1)
                groups<1>(units.first, units.last);
            else if (vectors == 2)
                groups<2>(units.first, units.last);
            else if (vectors == 3)
                groups<3>(units.first, units.last);
            else
                groups<4>(units.first, units.last);
        }
        if (stream) stream_fence();
        if (p.workspace) add_sequences(static_cast<const T*>(p.workspace), p.shape.B, columns(), p.da_sum.data, team);
    }
};

template <class S, bool Complex> void with_da(const LinearScanGradient<S>& p, bool stream, Team team) {
    if (p.da.data)
        Backward<S, Complex, Da::each>{p, stream, team}.run();
    else if (p.da_sum.data)
        Backward<S, Complex, Da::sum>{p, stream, team}.run();
    else
        Backward<S, Complex, Da::none>{p, stream, team}.run();
}

} // namespace

// Space for the sums of each sequence, if da is summed over time and rows
template <class S> size_t linear_scan_gradient_workspace(const LinearScanGradient<S>& p) {
    if (!p.da_sum.data || p.da_sum.time != 0 || p.da_sum.row != 0) return 0;
    return size_t(p.shape.B * columns_of(p.shape) + 1) * sizeof(accumulate_t<S>);
}

template <class S> void linear_scan_gradient(const LinearScanGradient<S>& p, Team team) {
    const bool stream = exceeds_caches(p.shape, p.dx.data ? p.dx : p.da);
    if constexpr (sizeof(S) > 2) {
        if (p.shape.complex) return with_da<S, true>(p, stream, team);
    }
    with_da<S, false>(p, stream, team);
}

#define FASTITER_SCAN_GRADIENT(S)                                                 \
    template size_t linear_scan_gradient_workspace(const LinearScanGradient<S>&); \
    template void linear_scan_gradient(const LinearScanGradient<S>&, Team);

} // namespace fastiter::scan::FASTITER_LEVEL
