// h[t] = A[t] h[t-1] + x[t] with a K x K matrix for each group of K numbers.
#include "scan/cpu/block.hpp"

namespace fastiter::scan::FASTITER_LEVEL {
namespace {

// One step of several groups: h = A state + x, which becomes the next state. `width` counts reals.
template <class T, bool Complex> struct AnyBlock {
    static int64_t ahead(int64_t, int64_t) { return 0; }
    static void step(int64_t K, const T* A, const T* x, T* h, T* state, int64_t width, int64_t, bool) {
        using Number = Scalar<T, Complex>;
        constexpr int64_t E = Number::size;
        Number next[16];
        for (int64_t c = 0; c < width; c += K * E, A += K * K * E) {
            for (int64_t i = 0; i < K; ++i) {
                Number sum = Number::load(A + i * K * E) * Number::load(state + c);
                for (int64_t j = 1; j < K; ++j)
                    sum = sum + Number::load(A + (i * K + j) * E) * Number::load(state + c + j * E);
                next[i] = sum + Number::load(x + c + i * E);
            }
            for (int64_t i = 0; i < K; ++i) {
                next[i].store(state + c + i * E);
                next[i].store(h + c + i * E);
            }
        }
    }
};

template <class T, bool Complex, int K> struct VectorBlock {
    using B = Blocks<T, Complex, K>;
    static constexpr int parts = B::parts, M = B::M;
    static constexpr int64_t size = parts * lanes<T>; // reals per iteration

    static int64_t ahead(int64_t step, int64_t line) { return B::ahead(step, line); }

    static void step(int64_t, const T* A, const T* x, T* h, T* state, int64_t width, int64_t ahead, bool stream) {
        if (const int64_t before = stream ? numbers_before_line<T>(h, width, K * B::E) : 0) {
            some(A, x, h, state, before, stream);
            A += before * K;
            x += before;
            h += before;
            state += before;
            width -= before;
        }
        const int64_t whole = width / size;
        const bool backwards = ahead < 0 && !B::large;
        if (width % size)
            some(A + whole * size * K, x + whole * size, h + whole * size, state + whole * size, width % size, stream);
        int64_t c = backwards ? (whole - 1) * size : 0;
        for (int64_t i = 0; i < whole; ++i, c += backwards ? -size : size) {
            B::fetch_next(A + c * K, ahead);
            some(A + c * K, x + c, h + c, state + c, size, stream);
        }
    }

    static FASTITER_INLINE void some(const T* A, const T* x, T* h, T* state, int64_t n, bool stream) {
        vec<T> old[parts], next[parts];
        for (int u = 0; u < parts; ++u) old[u] = load_up_to(state + u * lanes<T>, n - u * lanes<T>);
#pragma GCC unroll 16
        for (int rows = 0; rows < parts; ++rows)
            next[rows] =
                product(A + rows * K * lanes<T>, old, n / B::E) + load_up_to(x + rows * lanes<T>, n - rows * lanes<T>);
#pragma GCC unroll 16
        for (int u = 0; u < parts; ++u) {
            store_up_to(state + u * lanes<T>, next[u], n - u * lanes<T>);
            put_up_to(h + u * lanes<T>, next[u], n - u * lanes<T>, stream);
        }
    }

    // Product of one vector of rows of A and the states of their groups. A is row-major; deal() turns its rows into
    // columns.
    static FASTITER_INLINE vec<T> product(const T* A, const vec<T> (&old)[parts], int64_t count) {
        vec<T> sum{};
        unrolled<parts>([&](auto part) FASTITER_INLINED {
            constexpr int u = decltype(part)::value;
            vec<T> columns[M];
#pragma GCC unroll 16
            for (int r = 0; r < M; ++r) columns[r] = B::matrix(A, r * parts + u, count);
            deal<T, B::E>(columns);
            unrolled<M>([&](auto column) FASTITER_INLINED {
                constexpr int j = decltype(column)::value;
                const vec<T> term = B::N::product(columns[j], B::template spread<j>(old[u]));
                sum = u + j ? sum + term : term;
            });
        });
        return sum;
    }
};

template <class T, class Block> void forward(const BlockScan<T>& p, Team team) {
    const int64_t columns = columns_of(p.shape), group = p.K * (columns / p.shape.D);
    const bool stream = exceeds_caches(p.shape, p.h);
    const Units units(p.shape, columns, 8192 / int64_t(sizeof(T)), group, team);
    for (int64_t u = units.first; u < units.last; ++u) {
        const Sequence q = sequence(p.shape, u / units.blocks);
        const int64_t column = u % units.blocks * units.width, width = min_of(units.width, columns - column);
        const int64_t ahead = Block::ahead(p.shape.reverse ? -p.A.time : p.A.time, width * p.K);
        T* state = p.last + q.index * columns + column;
        begin_state(p.first ? p.first + q.index * columns + column : nullptr, state, width);
        for (int64_t k = 0; k < q.steps; ++k) {
            if (k % 16 == 0 && has_to_stop(team, 16 * width * p.K)) return;
            const int64_t t = p.shape.reverse ? q.steps - 1 - k : k;
            const T* x = at(p.x, q, t, column);
            T* h = at(p.h, q, t, column);
            const uint8_t* reset = at(p.shape.reset, q, t, 0);
            if (reset && *reset)
                for_vectors<T>(width, [&](int64_t c, int64_t n) FASTITER_INLINED {
                    const vec<T> v = load_up_to(x + c, n);
                    store_up_to(state + c, v, n);
                    put_up_to(h + c, v, n, stream);
                });
            else
                Block::step(p.K, at(p.A, q, t, column * p.K), x, h, state, width, ahead, stream);
        }
        zero_padding(p.shape, p.h, q, column, width);
    }
    if (stream) stream_fence();
}

template <class T, bool Complex> void forward(const BlockScan<T>& p, Team team) {
    with_constant<2, 4, 8, 16, 0>(int(p.K), [&]<int K>() {
        if constexpr (K > 0)
            forward<T, VectorBlock<T, Complex, K>>(p, team);
        else
            forward<T, AnyBlock<T, Complex>>(p, team);
    });
}

} // namespace

template <class T> void block_scan(const BlockScan<T>& p, Team team) {
    if (p.shape.D == 0) return;
    if (p.K == 1) return linear_scan(LinearScan<T>{p.shape, p.A, p.x, p.first, p.h, p.last, {}}, team);
    p.shape.complex ? forward<T, true>(p, team) : forward<T, false>(p, team);
}

template void block_scan(const BlockScan<float>&, Team);
template void block_scan(const BlockScan<double>&, Team);

} // namespace fastiter::scan::FASTITER_LEVEL
