// h[t] = A[t] h[t-1] + x[t] with a matrix for each group of K numbers.
#include "block_scan.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

// One step of the numbers of some groups: h = A state + x, which is the next state.
template <class T, bool Complex> struct AnyBlock {
    static FASTITER_INLINE void step(int64_t K, const T* A, const T* x, T* h, T* state, int64_t width, bool) {
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

template <class T, class Block> void forward(const BlockScan<T>& p, Team team) {
    const int64_t columns = columns_of(p.shape), group = p.K * (columns / p.shape.D);
    const bool stream = exceeds_caches<T>(p.shape);
    const Units units(p.shape, columns, 8192 / int64_t(sizeof(T)), group, team);
    for (int64_t u = units.first; u < units.last; ++u) {
        const Sequence q = sequence(p.shape, u / units.blocks);
        const int64_t column = u % units.blocks * units.width, width = min_of(units.width, columns - column);
        T* state = p.last + q.index * columns + column;
        begin_state(p.first ? p.first + q.index * columns + column : nullptr, state, width);
        for (int64_t k = 0; k < q.steps; ++k) {
            const int64_t t = p.shape.reverse ? q.steps - 1 - k : k;
            const T* x = at(p.x, q, t, column);
            T* h = at(p.h, q, t, column);
            const uint8_t* reset = at(p.shape.reset, q, t, 0);
            if (reset && *reset)
                for_vectors<T>(width, [&](int64_t c, int64_t n) FASTITER_INLINED {
                    const vec<T> v = load_up_to(x + c, n);
                    store_up_to(state + c, v, n);
                    put(h + c, v, n, stream);
                });
            else
                Block::step(p.K, at(p.A, q, t, matrix_column(column, p.K)), x, h, state, width, stream);
        }
        zero_padding(p.shape, p.h, q, column, width);
    }
    if (stream) stream_fence();
}

} // namespace

template <class T> void block_scan(const BlockScan<T>& p, Team team) {
    if (p.shape.D == 0) return;
    if (p.K == 1) return linear_scan(LinearScan<T, T>{p.shape, p.A, p.x, p.first, p.h, p.last}, team);
    if (p.shape.complex)
        forward<T, AnyBlock<T, true>>(p, team);
    else
        forward<T, AnyBlock<T, false>>(p, team);
}

template void block_scan(const BlockScan<float>&, Team);
template void block_scan(const BlockScan<double>&, Team);

} // namespace fastiter::FASTITER_LEVEL
