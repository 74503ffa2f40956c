// Sweeps block after block: the diagonal blocks are inverted beforehand.
#include "relax_columns.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

// sum -= block x for a block stored by columns
template <class S, class A, class V, int K>
FASTITER_INLINE void subtract_block(const A* block, const V* x, int64_t k, int size, S* sum) {
    for (int q = 0; q < size; ++q)
        for (int r = 0; r < size; ++r)
            for (int c = 0; c < K; ++c)
                sum[r * K + c] = sum[r * K + c] - wide(block[q * size + r]) * wide(x[q * k + c]);
}

template <class A, class V, int B, int K>
FASTITER_INLINE void subtract_row(const RelaxBlocks<A, V>& m, const V* x, int64_t k, int64_t column, int64_t row,
                                  sum_of<V>* sum) {
    const int size = B ? B : m.size;
    const int64_t area = int64_t(size) * size;
    if constexpr ((B == 2 || B == 4) && K == 1) { // lanes are rows
        Columns<sum_of<V>, B> sums(sum);
        for (int64_t e = m.start[row]; e < m.start[row + 1]; ++e)
            for (int q = 0; q < B; ++q)
                sums.subtract(wide(x[(int64_t(m.column[e]) * B + q) * k + column]), m.value + e * area + q * B);
        return sums.store(sum);
    }
    if constexpr (K > 1) { // lanes are columns of x
        for (int r = 0; r < size; ++r) {
            Columns<sum_of<V>, K> sums(sum + r * K);
            for (int64_t e = m.start[row]; e < m.start[row + 1]; ++e)
                for (int q = 0; q < size; ++q)
                    sums.subtract(wide(m.value[e * area + q * size + r]),
                                  x + (int64_t(m.column[e]) * size + q) * k + column);
            sums.store(sum + r * K);
        }
        return;
    }
    for (int64_t e = m.start[row]; e < m.start[row + 1]; ++e)
        subtract_block<sum_of<V>, A, V, K>(m.value + e * area, x + int64_t(m.column[e]) * size * k + column, k, size,
                                           sum);
}

template <class A, class V, int B, int K>
FASTITER_INLINE void relax_row(const RelaxBlocks<A, V>& m, const RelaxStep<V>& s, int64_t row, int64_t column) {
    typedef sum_of<V> S;
    constexpr int most = B ? B : kMaxBlockSize;
    const int size = B ? B : m.size;
    S sum[most * K], z[most * K];
    for (int r = 0; r < size; ++r)
        for (int c = 0; c < K; ++c) sum[r * K + c] = wide(s.b[(row * size + r) * s.k + column + c]), z[r * K + c] = S{};
    subtract_row<A, V, B, K>(m, s.x, s.k, column, row, sum);
    const S* inverse = m.inverse + row * size * size;
    for (int q = 0; q < size; ++q)
        for (int r = 0; r < size; ++r)
            for (int c = 0; c < K; ++c) z[r * K + c] = z[r * K + c] + inverse[q * size + r] * sum[q * K + c];
    for (int r = 0; r < size; ++r)
        for (int c = 0; c < K; ++c) relax_one(s, (row * size + r) * s.k + column + c, z[r * K + c]);
}

template <class A, class V, int B>
void sweep_clusters(const RelaxBlocks<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
                    int64_t columns) {
    for (int64_t cluster = first; cluster < last; ++cluster)
        for_blocks(m.cluster_row[cluster], m.cluster_row[cluster + 1], s.backward, columns,
                   [&](int64_t begin, int64_t end) {
                       for_tiles(column, columns, [&]<int K>(int64_t at) {
                           for (int64_t i = 0; i < end - begin; ++i)
                               relax_row<A, V, B, K>(m, s, s.backward ? end - 1 - i : begin + i, at);
                       });
                   });
}

template <class A, class V, int B, int K>
void residual_chunk(const RelaxBlocks<A, V>& m, const RelaxResidual<V>& s, int64_t chunk, int64_t column) {
    constexpr int most = B ? B : kMaxBlockSize;
    const int size = B ? B : m.size;
    ChunkResidual<V, K> found{s, chunk, column};
    const int64_t last = min_of(m.n, (chunk + 1) * kChunkRows);
    for (int64_t row = chunk * kChunkRows; row < last; ++row) {
        const int64_t at = row * size * s.k + column;
        sum_of<V> sum[most * K];
        for (int r = 0; r < size; ++r)
            for (int c = 0; c < K; ++c) sum[r * K + c] = wide(s.b[at + r * s.k + c]);
        subtract_row<A, V, B, K>(m, s.x, s.k, column, row, sum);
        subtract_block<sum_of<V>, A, V, K>(m.diagonal + row * size * size, s.x + at, s.k, size, sum);
        for (int r = 0; r < size; ++r) found.add(row * size + r, sum + r * K);
    }
    found.store();
}

// Calls f<B>() with the size of blocks as a constant where it is a common one, else with 0.
template <class F> FASTITER_INLINE void with_size(int size, F f) {
    switch (size) {
    case 2:
        return f.template operator()<2>();
    case 3:
        return f.template operator()<3>();
    case 4:
        return f.template operator()<4>();
    default:
        return f.template operator()<0>();
    }
}

} // namespace

template <class A, class V>
void relax_blocks(const RelaxBlocks<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
                  int64_t columns) {
    with_size(m.size, [&]<int B>() { sweep_clusters<A, V, B>(m, s, first, last, column, columns); });
}

template <class A, class V>
void relax_blocks_residual(const RelaxBlocks<A, V>& m, const RelaxResidual<V>& s, int64_t first, int64_t last) {
    with_size(m.size, [&]<int B>() {
        for (int64_t chunk = first; chunk < last; ++chunk)
            for_tiles(0, s.k, [&]<int K>(int64_t at) { residual_chunk<A, V, B, K>(m, s, chunk, at); });
    });
}

#define FASTITER_INSTANTIATE(A, V)                                                                                 \
    template void relax_blocks(const RelaxBlocks<A, V>&, const RelaxStep<V>&, int64_t, int64_t, int64_t, int64_t); \
    template void relax_blocks_residual(const RelaxBlocks<A, V>&, const RelaxResidual<V>&, int64_t, int64_t);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::FASTITER_LEVEL
