// Backward pass (exact reverse) of the block scan.
#include "scan/cpu/block.hpp"

namespace fastiter::scan::FASTITER_LEVEL {
namespace {

constexpr int64_t kTogether = 64; // as in linear_backward.hpp
constexpr int64_t kMatrixBytes = 16384;

template <class T> struct Step {
    const T *A, *before, *dh; // before and dh may be null = 0
    T *dx, *dA, *carry;       // dx and dA may be null: not requested
    bool adds;                // accumulates into dA
    bool begins;              // reset: no contribution from the previous step
    int64_t ahead;            // prefetch distance
    bool stream, stream_matrices;

    Step at(int64_t c, int64_t K) const {
        Step s = *this;
        s.A += c * K;
        s.carry += c;
        if (before) s.before += c;
        if (dh) s.dh += c;
        if (dx) s.dx += c;
        if (dA) s.dA += c * K;
        return s;
    }
};

template <class T, bool Complex> struct AnyBlock {
    static int64_t ahead(int64_t, int64_t) { return 0; }
    static void step(int64_t K, const Step<T>& s, int64_t width) {
        using Number = Scalar<T, Complex>;
        constexpr int64_t E = Number::size;
        Number l[16], next[16];
        for (int64_t c = 0; c < width; c += K * E) {
            for (int64_t i = 0; i < K; ++i) {
                l[i] = Number::load(s.carry + c + i * E);
                if (s.dh) l[i] = Number::load(s.dh + c + i * E) + l[i];
                if (s.dx) l[i].store(s.dx + c + i * E);
                next[i] = {0, 0};
            }
            for (int64_t i = 0; i < K; ++i)
                for (int64_t j = 0; j < K; ++j) {
                    const int64_t ij = (c + i * E) * K + j * E;
                    if (s.dA) {
                        Number g{0, 0};
                        if (s.before && !s.begins) g = Number::load(s.before + c + j * E).conjugate_times(l[i]);
                        if (s.adds) g = Number::load(s.dA + ij) + g;
                        g.store(s.dA + ij);
                    }
                    if (s.begins) continue;
                    const Number term = Number::load(s.A + ij).conjugate_times(l[i]);
                    next[j] = i ? next[j] + term : term;
                }
            for (int64_t j = 0; j < K; ++j) next[j].store(s.carry + c + j * E);
        }
    }
};

template <class T, bool Complex, int K> struct VectorBlock {
    using B = Blocks<T, Complex, K>;
    static constexpr int parts = B::parts, M = B::M, E = B::E, W = B::W;
    static constexpr int64_t size = parts * lanes<T>; // reals per iteration

    static int64_t ahead(int64_t step, int64_t line) { return B::ahead(step, line); }

    static void step(int64_t, const Step<T>& s, int64_t width) {
        if (s.begins) return AnyBlock<T, Complex>::step(K, s, width);
        const int64_t whole = width / size;
        if constexpr (parts == 1) // else `size` is one block
            if (width % size) some(s.at(whole * size, K), width % size);
        const bool backwards = s.ahead < 0 && !B::large;
        int64_t c = backwards ? (whole - 1) * size : 0;
        for (int64_t i = 0; i < whole; ++i, c += backwards ? -size : size) some(s.at(c, K), size);
    }

    static FASTITER_INLINE void some(const Step<T>& s, int64_t n) {
        B::fetch_next(s.A, s.ahead);
        vec<T> l[parts], next[parts];
        for (int u = 0; u < parts; ++u) {
            const int64_t c = u * lanes<T>;
            l[u] = load_up_to(s.carry + c, n - c);
            if (s.dh) l[u] = load_up_to(s.dh + c, n - c) + l[u];
            if (s.dx) put_up_to(s.dx + c, l[u], n - c, s.stream);
        }
        if (s.dA) outer(s, l, n);
        adjoint(s.A, l, next, n / E);
        for (int u = 0; u < parts; ++u) store_up_to(s.carry + u * lanes<T>, next[u], n - u * lanes<T>);
    }

    // next = A^H l, summed over the rows in order. A vector holds whole rows or a part of one row; if whole rows,
    // deal() gathers row i of every group in one vector.
    static FASTITER_INLINE void adjoint(const T* A, const vec<T> (&l)[parts], vec<T> (&next)[parts], int64_t count) {
        if constexpr (parts == 1) {
            // rows per vector; rows dealt at once
            constexpr int rows = W / K, share = K < rows ? K : rows, turns = K / share;
            unrolled<turns>([&](auto turn) FASTITER_INLINED {
                constexpr int u = decltype(turn)::value;
                vec<T> dealt[share];
#pragma GCC unroll 16
                for (int m = 0; m < share; ++m) dealt[m] = B::matrix(A, m * turns + u, count);
                deal<T, K * E>(dealt);
                unrolled<share>([&](auto row) FASTITER_INLINED {
                    constexpr int i = u * share + decltype(row)::value;
                    const vec<T> term = B::N::conjugate_product(dealt[i % share], B::template spread<i>(l[0]));
                    next[0] = i ? next[0] + term : term;
                });
            });
        } else {
            unrolled<K>([&](auto row) FASTITER_INLINED {
                constexpr int i = decltype(row)::value;
                const vec<T> l_i = B::template spread<i % M>(l[i / M]);
#pragma GCC unroll 16
                for (int u = 0; u < parts; ++u) {
                    const vec<T> term = B::N::conjugate_product(load(A + (i * parts + u) * lanes<T>), l_i);
                    next[u] = i ? next[u] + term : term;
                }
            });
        }
    }

    // dA = l before^H, accumulated or overwritten, row by row
    static FASTITER_INLINE void outer(const Step<T>& s, const vec<T> (&l)[parts], int64_t n) {
        vec<T> before[parts];
        for (int u = 0; u < parts; ++u)
            before[u] = s.before ? load_up_to(s.before + u * lanes<T>, n - u * lanes<T>) : vec<T>{};
        unrolled<K * parts>([&](auto vector) FASTITER_INLINED {
            constexpr int i = decltype(vector)::value;
            vec<T> g;
            if constexpr (parts == 1)
                g = B::N::conjugate_product(shuffles::columns<E, K, i*(W / K)>(before[0], B::all),
                                            shuffles::rows<E, K, i*(W / K)>(l[0], B::all));
            else
                g = B::N::conjugate_product(before[i % parts], B::template spread<i / parts % M>(l[i / parts / M]));
            T* dA = s.dA + i * lanes<T>;
            const int64_t left = n * K - i * lanes<T>;
            if (left <= 0) return;
            if (s.adds) g = load_up_to(dA, left) + g;
            put_up_to(dA, g, left, s.stream_matrices);
        });
    }
};

template <class T, class Block> struct Backward {
    const BlockScanGradient<T>& p;
    const bool stream, stream_matrices;
    const Team team;

    int64_t columns() const { return columns_of(p.shape); }
    int64_t group() const { return p.K * (p.shape.complex ? 2 : 1); }
    bool sums() const { return p.dA_sum.data; }
    bool over_time() const { return sums() && p.dA_sum.time == 0; }

    T* sum_of(const Sequence& q) const {
        return p.workspace ? static_cast<T*>(p.workspace) + q.index * columns() * p.K
                           : p.dA_sum.data + q.index * p.dA_sum.row;
    }

    FASTITER_NOINLINE void run_sequence(const Sequence& q, int64_t column, int64_t width) const {
        alignas(64) T together[kMatrixBytes / sizeof(T)];
        const int64_t matrix = column * p.K, size = width * p.K;
        T* carry = p.dfirst + q.index * columns() + column;
        begin_state(p.dlast ? p.dlast + q.index * columns() + column : nullptr, carry, width);
        const int64_t direction = p.shape.reverse ? 1 : -1, ahead = Block::ahead(direction * p.A.time, size);
        if (over_time()) {
            fill_zero(together, size);
            fill_zero(sum_of(q) + matrix, size);
        }
        for (int64_t k = 0; k < q.steps; ++k) {
            if (k % 16 == 0 && has_to_stop(team, 32 * width * p.K)) return;
            const int64_t t = p.shape.reverse ? k : q.steps - 1 - k;
            Step<T> s{at(p.A, q, t, matrix),
                      nullptr,
                      at(p.dh, q, t, column),
                      at(p.dx, q, t, column),
                      at(p.dA, q, t, matrix),
                      carry,
                      sums(),
                      false,
                      ahead,
                      stream,
                      stream_matrices};
            if (k + 1 < q.steps)
                s.before = at(p.h, q, t + direction, column);
            else if (p.first)
                s.before = p.first + q.index * columns() + column;
            if (sums()) s.dA = over_time() ? together : at(p.dA_sum, q, t, matrix);
            const uint8_t* reset = at(p.shape.reset, q, t, 0);
            s.begins = reset && *reset;
            Block::step(p.K, s, width);
            if (over_time() && ((k + 1) % kTogether == 0 || k + 1 == q.steps)) {
                T* sum = sum_of(q) + matrix;
                for_vectors<T>(size, [&](int64_t c, int64_t n) FASTITER_INLINED {
                    store_up_to(sum + c, load_up_to(sum + c, n) + load_up_to(together + c, n), n);
                    store_up_to(together + c, vec<T>{}, n);
                });
            }
        }
        zero_padding(p.shape, p.dx, q, column, width);
        zero_padding(p.shape, p.dA, q, matrix, size);
    }

    // Sums dA over the rows of the batch but not over time: one thread processes all rows of its groups in sequence.
    void over_rows() const {
        const int64_t widest = kMatrixBytes / int64_t(sizeof(T)) / p.K;
        const int64_t parts = max_of(team.size, ceil_div(columns(), widest));
        const int64_t width = round_up(ceil_div(columns(), parts), group());
        for (int64_t column = team.id * width; column < columns(); column += team.size * width) {
            const int64_t n = min_of(width, columns() - column);
            for (int64_t t = 0; t < p.shape.T; ++t)
                fill_zero(p.dA_sum.data + t * p.dA_sum.time + column * p.K, n * p.K);
            for (int64_t i = 0; i < p.shape.B; ++i) run_sequence(sequence(p.shape, i), column, n);
        }
    }

    void run() const {
        if (sums() && !over_time()) {
            over_rows();
        } else {
            const int64_t widest = kMatrixBytes / int64_t(sizeof(T)) / p.K / group() * group();
            const Units units(p.shape, columns(), widest, group(), team);
            for (int64_t u = units.first; u < units.last; ++u) {
                const int64_t column = u % units.blocks * units.width;
                run_sequence(sequence(p.shape, u / units.blocks), column, min_of(units.width, columns() - column));
            }
        }
        if (stream || stream_matrices) stream_fence();
        if (p.workspace)
            add_sequences(static_cast<const T*>(p.workspace), p.shape.B, columns() * p.K, p.dA_sum.data, team);
    }
};

template <class T, bool Complex> void backward(const BlockScanGradient<T>& p, Team team) {
    const bool stream = exceeds_caches(p.shape, p.dx);
    const bool stream_matrices = p.dA.data && exceeds_caches(p.shape, p.dA, p.K);
    with_constant<2, 4, 8, 16, 0>(int(p.K), [&]<int K>() {
        if constexpr (K > 0)
            Backward<T, VectorBlock<T, Complex, K>>{p, stream, stream_matrices, team}.run();
        else
            Backward<T, AnyBlock<T, Complex>>{p, stream, stream_matrices, team}.run();
    });
}

template <class T> LinearScanGradient<T> as_linear(const BlockScanGradient<T>& p) {
    return {p.shape, p.A, p.h, p.dh, p.first, p.dlast, p.dx, p.dA, p.dA_sum, p.dfirst, p.workspace};
}

} // namespace

template <class T> size_t block_scan_gradient_workspace(const BlockScanGradient<T>& p) {
    if (p.K == 1) return linear_scan_gradient_workspace(as_linear(p));
    if (!p.dA_sum.data || p.dA_sum.time != 0 || p.dA_sum.row != 0) return 0;
    return size_t(p.shape.B * columns_of(p.shape) * p.K + 1) * sizeof(T);
}

template <class T> void block_scan_gradient(const BlockScanGradient<T>& p, Team team) {
    if (p.shape.D == 0) return;
    if (p.K == 1) return linear_scan_gradient(as_linear(p), team);
    p.shape.complex ? backward<T, true>(p, team) : backward<T, false>(p, team);
}

#define FASTITER_INSTANTIATE(T)                                                 \
    template size_t block_scan_gradient_workspace(const BlockScanGradient<T>&); \
    template void block_scan_gradient(const BlockScanGradient<T>&, Team);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::scan::FASTITER_LEVEL
