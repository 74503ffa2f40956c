// h[t] = a[t] * h[t-1] + x[t]: a sequential loop over time, vectorised over the numbers of a step.
#include "scan/cpu/sequences.hpp"

namespace fastiter::scan::FASTITER_LEVEL {
namespace {

constexpr int64_t kTogether = 64; // wide steps between two polls for a request to stop
constexpr int kNarrow = 4;        // vectors of interleaved sequences that are kept in registers

template <class S, bool Complex> struct Forward {
    using T = accumulate_t<S>;
    using N = Numbers<S, Complex>;
    static constexpr int W = lanes<T>;
    const LinearScan<S>& p;
    const bool stream;
    const Team team;

    int64_t time(const Sequence& q, int64_t step) const { return p.shape.reverse ? q.steps - 1 - step : step; }

    void begin(const Sequence& q, int64_t column, int64_t width) const {
        const int64_t offset = q.index * columns_of(p.shape) + column;
        begin_state(p.first ? p.first + offset : nullptr, p.last + offset, width);
    }

    // One sequence with many columns. Each step is read and written contiguously; the state is a row in cache.
    void wide(const Sequence& q, int64_t column, int64_t width) const {
        begin(q, column, width);
        for (int64_t k = 0; k < q.steps; k += kTogether) {
            wide_steps(q, k, min_of(k + kTogether, q.steps), column, width);
            if (has_to_stop(team, kTogether * width)) return;
        }
        end(q, column, width);
    }

    void end(const Sequence& q, int64_t column, int64_t width) const {
        zero_padding(p.shape, p.h, q, column, width);
        zero_padding(p.shape, p.copy, q, column, width);
    }

    // Steps [from, to), not inlined: in a loop that polls for a request to stop, the compiler keeps less in registers.
    FASTITER_NOINLINE void wide_steps(const Sequence& q, int64_t from, int64_t to, int64_t column,
                                      int64_t width) const {
        T* state = p.last + q.index * columns_of(p.shape) + column;
        const bool stream = this->stream, backwards = p.shape.reverse;
        const bool fetches = stream || (width < columns_of(p.shape) && width * int64_t(sizeof(S)) <= kPieceBytes);
        const int64_t next_a = ahead<S>(backwards ? -p.a.time : p.a.time, width),
                      next_x = ahead<S>(backwards ? -p.x.time : p.x.time, width);
        for (int64_t k = from; k < to; ++k) {
            const int64_t t = time(q, k);
            const S *a = at(p.a, q, t, column), *x = at(p.x, q, t, column);
            S *h = at(p.h, q, t, column), *copy = at(p.copy, q, t, column);
            const uint8_t* reset = at(p.shape.reset, q, t, 0);
            const int64_t before = stream ? numbers_before_line<T>(h, width, Complex ? 2 : 1) : 0;
            if (reset && *reset)
                for_vectors_after<T>(before, width, backwards, [&](int64_t c, int64_t n) FASTITER_INLINED {
                    const vec<T> v = load_up_to(x + c, n);
                    store_up_to(state + c, v, n);
                    if (h) put_up_to(h + c, v, n, stream);
                    if (copy) put_up_to(copy + c, v, n, stream);
                });
            else
                for_vectors_after<T>(before, width, backwards, [&](int64_t c, int64_t n) FASTITER_INLINED {
                    if (fetches) {
                        fetch(a + c + next_a);
                        fetch(x + c + next_x);
                    }
                    const vec<T> from = N::product(load_up_to(a + c, n), load_up_to(state + c, n));
                    const vec<T> v = from + load_up_to(x + c, n);
                    store_up_to(state + c, v, n);
                    if (h) put_up_to(h + c, v, n, stream);
                    if (copy) put_up_to(copy + c, v, n, stream);
                });
        }
    }

    // V vectors of each of R interleaved sequences, as each step of one sequence depends on the previous one.
    template <int V, int R> void narrow(const Sequence* q, int64_t from, int64_t to, int64_t columns) const {
        const int64_t direction = p.shape.reverse ? -1 : 1;
        const S *a[R], *x[R];
        S *h[R], *copy[R];
        const uint8_t* reset[R];
        vec<T> state[R][V];
        auto size = [&](int v) { return v < V - 1 ? int64_t(W) : columns - (V - 1) * W; };
        for (int r = 0; r < R; ++r) {
            const int64_t t = time(q[r], from);
            a[r] = at(p.a, q[r], t, 0);
            x[r] = at(p.x, q[r], t, 0);
            h[r] = at(p.h, q[r], t, 0);
            copy[r] = at(p.copy, q[r], t, 0);
            reset[r] = at(p.shape.reset, q[r], t, 0);
            for (int v = 0; v < V; ++v) state[r][v] = load_up_to(p.last + q[r].index * columns + v * W, size(v));
        }
        for (int64_t turn = 0; turn < to - from; turn += kTurn) {
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r)
                for (int64_t k = turn; k < min_of(turn + kTurn, to - from); ++k) {
                    const int64_t step = k * direction;
                    const bool begins = reset[r] && reset[r][step * p.shape.reset.time];
#pragma GCC unroll 4
                    for (int v = 0; v < V; ++v) {
                        const vec<T> new_x = load_up_to(x[r] + step * p.x.time + v * W, size(v));
                        const vec<T> factor = load_up_to(a[r] + step * p.a.time + v * W, size(v));
                        state[r][v] = begins ? new_x : N::product(factor, state[r][v]) + new_x;
                        if (p.h.data) put_up_to(h[r] + step * p.h.time + v * W, state[r][v], size(v), stream);
                        if (p.copy.data) put_up_to(copy[r] + step * p.copy.time + v * W, state[r][v], size(v), stream);
                    }
                }
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) store_up_to(p.last + q[r].index * columns + v * W, state[r][v], size(v));
    }

    template <int V, int R> void in_parts(const Sequence* q, int64_t from, int64_t to, int64_t columns) const {
        for (; from < to; from += kStepsPerCheck) {
            narrow<V, R>(q, from, min_of(to, from + kStepsPerCheck), columns);
            if (has_to_stop(team, R * kStepsPerCheck * columns)) return;
        }
    }

    // Runs R sequences together up to the shortest one's end, then each to its own end.
    template <int V, int R> void group(const Sequence* q, int64_t columns) const {
        int64_t together = q[0].steps;
        for (int r = 0; r < R; ++r) {
            begin(q[r], 0, columns);
            together = min_of(together, q[r].steps);
        }
        in_parts<V, R>(q, 0, together, columns);
        for (int r = 0; r < R; ++r) {
            in_parts<V, 1>(q + r, together, q[r].steps, columns);
            end(q[r], 0, columns);
        }
    }

    template <int V> void groups(int64_t first, int64_t last, int64_t columns) const {
        constexpr int R = kNarrow / V;
        Sequence q[R];
        int64_t i = first;
        for (; i + R <= last; i += R) {
            for (int r = 0; r < R; ++r) q[r] = sequence(p.shape, i + r);
            group<V, R>(q, columns);
        }
        for (; i < last; ++i) {
            q[0] = sequence(p.shape, i);
            group<V, 1>(q, columns);
        }
    }

    void run() const {
        const int64_t columns = columns_of(p.shape);
        if (columns == 0) return;
        const Units units(p.shape, columns, kWidestBytes / int64_t(sizeof(T)), 64 / int64_t(sizeof(S)), team);
        const int64_t vectors = ceil_div(columns, W);
        if (units.blocks > 1 || vectors > kNarrow) {
            for (int64_t u = units.first; u < units.last; ++u) {
                const int64_t column = u % units.blocks * units.width;
                wide(sequence(p.shape, u / units.blocks), column, min_of(units.width, columns - column));
            }
        } else if (vectors == 1) {
            groups<1>(units.first, units.last, columns);
        } else if (vectors == 2) {
            groups<2>(units.first, units.last, columns);
        } else if (vectors == 3) {
            groups<3>(units.first, units.last, columns);
        } else {
            groups<4>(units.first, units.last, columns);
        }
        if (stream) stream_fence();
    }
};

} // namespace

template <class S> void linear_scan(const LinearScan<S>& p, Team team) {
    const bool stream = exceeds_caches(p.shape, p.h);
    if constexpr (sizeof(S) > 2) {
        if (p.shape.complex) return Forward<S, true>{p, stream, team}.run();
    }
    Forward<S, false>{p, stream, team}.run();
}

#define FASTITER_INSTANTIATE(S) template void linear_scan(const LinearScan<S>&, Team);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)
FASTITER_INSTANTIATE(bf16)

} // namespace fastiter::scan::FASTITER_LEVEL
