// Block relaxation sweeps; the diagonal blocks are inverted beforehand.
#pragma once
#include "relax/cpu/columns.hpp"

namespace fastiter::relax::FASTITER_LEVEL {
namespace {

// Address of block entry `at`. A batch of k matrices stores k values per entry; `column` selects the first.
template <bool Batched, class T>
FASTITER_INLINE const T* number_at(const T* block, int64_t at, int64_t k, int64_t column) {
    return Batched ? block + at * k + column : block + at;
}

// sum -= block x for a column-major block that begins at number `first` of `blocks`
template <class S, class A, class V, int K, bool Batched>
FASTITER_INLINE void subtract_block(const A* blocks, int64_t first, const V* x, int64_t k, int64_t column, int size,
                                    S* sum) {
    for (int q = 0; q < size; ++q)
        for (int r = 0; r < size; ++r) {
            const A* a = number_at<Batched>(blocks, first + q * size + r, k, column);
            for (int c = 0; c < K; ++c)
                sum[r * K + c] = sum[r * K + c] - wide(a[Batched ? c : 0]) * wide(x[q * k + column + c]);
        }
}

template <class A, class V, int B, int K, bool Batched>
FASTITER_INLINE void subtract_row(const BsrMatrix<A, V>& m, const V* x, int64_t k, int64_t column, int64_t row,
                                  sum_of<V>* sum) {
    const int size = B ? B : m.size;
    const int64_t area = int64_t(size) * size;
    if constexpr ((B == 2 || B == 4) && K == 1 && !Batched) { // lanes are rows
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
                for (int q = 0; q < size; ++q) {
                    const A* a = number_at<Batched>(m.value, e * area + q * size + r, k, column);
                    const V* from = x + (int64_t(m.column[e]) * size + q) * k + column;
                    if constexpr (Batched)
                        sums.subtract_each(a, from);
                    else
                        sums.subtract(wide(*a), from);
                }
            sums.store(sum + r * K);
        }
        return;
    }
    for (int64_t e = m.start[row]; e < m.start[row + 1]; ++e)
        subtract_block<sum_of<V>, A, V, K, Batched>(m.value, e * area, x + int64_t(m.column[e]) * size * k, k, column,
                                                    size, sum);
}

template <class A, class V, int B, int K, bool Batched>
FASTITER_INLINE void relax_row(const BsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t row, int64_t column) {
    using S = sum_of<V>;
    constexpr int kMax = B ? B : kMaxBlockSize;
    const int size = B ? B : m.size;
    S sum[kMax * K], z[kMax * K];
    for (int r = 0; r < size; ++r)
        for (int c = 0; c < K; ++c) {
            sum[r * K + c] = wide(s.b[(row * size + r) * s.k + column + c]);
            z[r * K + c] = S{};
        }
    subtract_row<A, V, B, K, Batched>(m, s.x, s.k, column, row, sum);
    for (int q = 0; q < size; ++q)
        for (int r = 0; r < size; ++r) {
            const S* inverse = number_at<Batched>(m.inverse, (row * size + q) * size + r, s.k, column);
            for (int c = 0; c < K; ++c) z[r * K + c] = z[r * K + c] + inverse[Batched ? c : 0] * sum[q * K + c];
        }
    for (int r = 0; r < size; ++r)
        for (int c = 0; c < K; ++c) relax_one(s, (row * size + r) * s.k + column + c, z[r * K + c]);
}

template <class A, class V, int B, bool Batched>
void sweep_clusters(const BsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
                    int64_t columns) {
    for (int64_t cluster = first; cluster < last; ++cluster)
        for_blocks(m.cluster_row[cluster], m.cluster_row[cluster + 1], s.backward, columns,
                   [&](int64_t begin, int64_t end) {
                       for_tiles(column, columns, [&]<int K>(int64_t at) {
                           for (int64_t i = 0; i < end - begin; ++i)
                               relax_row<A, V, B, K, Batched>(m, s, s.backward ? end - 1 - i : begin + i, at);
                       });
                   });
}

template <class A, class V, int B, int K, bool Batched>
void residual_chunk(const BsrMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t chunk, int64_t column) {
    constexpr int kMax = B ? B : kMaxBlockSize;
    const int size = B ? B : m.size;
    ChunkResidual<V, K> residual{s, chunk, column};
    const int64_t last = min_of(m.n, (chunk + 1) * kChunkRows);
    for (int64_t row = chunk * kChunkRows; row < last; ++row) {
        const int64_t at = row * size * s.k;
        sum_of<V> sum[kMax * K];
        for (int r = 0; r < size; ++r)
            for (int c = 0; c < K; ++c) sum[r * K + c] = wide(s.b[at + r * s.k + column + c]);
        subtract_row<A, V, B, K, Batched>(m, s.x, s.k, column, row, sum);
        subtract_block<sum_of<V>, A, V, K, Batched>(m.diagonal, row * size * size, s.x + at, s.k, column, size, sum);
        for (int r = 0; r < size; ++r) residual.add(row * size + r, sum + r * K);
    }
    residual.store();
}

// Calls f<B, batched>() with the block size as a constant if it is a common one, else with 0; always with 0 for a
// batch.
template <class A, class V, class F> FASTITER_INLINE void with_block(const BsrMatrix<A, V>& m, F f) {
    if (m.batched) return f.template operator()<0, true>();
    with_constant<2, 3, 4, 0>(m.size, [&]<int B>() { f.template operator()<B, false>(); });
}

} // namespace

template <class A, class V>
void sweep_bsr(const BsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
               int64_t columns) {
    with_block(m, [&]<int B, bool Batched>() { sweep_clusters<A, V, B, Batched>(m, s, first, last, column, columns); });
}

template <class A, class V>
void residual_bsr(const BsrMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t first, int64_t last) {
    with_block(m, [&]<int B, bool Batched>() {
        for (int64_t chunk = first; chunk < last; ++chunk)
            for_tiles(0, s.k, [&]<int K>(int64_t at) { residual_chunk<A, V, B, K, Batched>(m, s, chunk, at); });
    });
}

#define FASTITER_RELAX_BLOCKS(A, V)                                                                           \
    template void sweep_bsr(const BsrMatrix<A, V>&, const RelaxStep<V>&, int64_t, int64_t, int64_t, int64_t); \
    template void residual_bsr(const BsrMatrix<A, V>&, const RelaxResidual<V>&, int64_t, int64_t);

} // namespace fastiter::relax::FASTITER_LEVEL
