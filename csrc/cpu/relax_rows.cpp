// Sweeps row after row, in clusters: natural order, any other, and batches of matrices with one pattern.
#include "relax.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

// sum -= the entries of one row but the two neighbours' and the diagonal
template <class A, class V, int K, bool Batched>
FASTITER_INLINE void subtract_entries(const RelaxRows<A, V>& m, const V* x, int64_t k, int64_t column, int64_t entry,
                                      int64_t count, sum_of<V> (&sum)[K]) {
    if constexpr (in_parts<V, K>) {
        Parts<K> sums(sum);
        for (int64_t e = entry; e < entry + count; ++e) {
            const V* from = x + int64_t(m.column[e]) * k + column;
            if constexpr (Batched)
                sums.subtract(m.value + e * k + column, from);
            else
                sums.subtract(wide(m.value[e]), from);
        }
        return sums.store(sum);
    }
    for (int64_t e = entry; e < entry + count; ++e) {
        const V* from = x + int64_t(m.column[e]) * k + column;
        const A* value = Batched ? m.value + e * k + column : m.value + e;
        for (int c = 0; c < K; ++c) sum[c] = sum[c] - wide(value[Batched ? c : 0]) * wide(from[c]);
    }
}

// sum -= a x where a is an entry at all
template <class A, class V, int K, bool Batched>
FASTITER_INLINE void subtract_neighbour(const A* a, const V* x, sum_of<V> (&sum)[K]) {
    for (int c = 0; c < K; ++c) {
        const auto factor = wide(a[Batched ? c : 0]);
        if (!is_zero(factor)) sum[c] = sum[c] - factor * wide(x[c]);
    }
}

// Going backward, "before" is the row i + 1. All that does not need its x is done first: the next row waits for two
// operations, where a plain sum makes it wait for a load, a store and a sum.
template <class A, class V, int K, bool Batched, bool Backward>
void sweep_cluster(const RelaxRows<A, V>& m, const RelaxStep<V>& s, int64_t cluster, int64_t column) {
    typedef sum_of<V> S;
    const int64_t k = s.k, first = m.cluster_row[cluster], last = m.cluster_row[cluster + 1];
    const double keep = 1 - s.omega;
    const A *linked = Backward ? m.after : m.before, *other = Backward ? m.before : m.after;
    const int64_t step = Backward ? -1 : 1, lead = Batched ? k : 1, shift = Batched ? column : 0;
    int64_t entry = m.cluster_entry[Backward ? cluster + 1 : cluster];
    S previous[K] = {};
    for (int64_t i = Backward ? last - 1 : first; i >= first && i < last; i += step) {
        const int64_t count = m.length[i];
        if (Backward) entry -= count;
        const V *b = s.b + i * k + column, *x = s.x + i * k + column;
        V* y = s.y + i * k + column;
        S sum[K];
        for (int c = 0; c < K; ++c) sum[c] = wide(b[c]);
        subtract_entries<A, V, K, Batched>(m, s.x, k, column, entry, count, sum);
        if (!Backward) entry += count;
        if (i + step >= first && i + step < last)
            subtract_neighbour<A, V, K, Batched>(other + i * lead + shift, x + step * k, sum);
        for (int c = 0; c < K; ++c) {
            const int64_t at = i * lead + shift + (Batched ? c : 0);
            const S scale = s.omega * m.inverse[at], factor = wide(linked[at]);
            S now = scale * sum[c];
            if (keep != 0) now = now + keep * wide(x[c]);
            const S less = now - (scale * factor) * previous[c];
            previous[c] = is_zero(factor) ? now : less;
            assign(y[c], previous[c]);
            previous[c] = wide(y[c]);
        }
    }
}

// Rows of clusters of one row each, with momentum: Jacobi and Chebyshev on batches.
template <class A, class V, int K, bool Batched>
void step_cluster(const RelaxRows<A, V>& m, const RelaxStep<V>& s, int64_t i, int64_t column) {
    const int64_t k = s.k;
    sum_of<V> sum[K];
    for (int c = 0; c < K; ++c) sum[c] = wide(s.b[i * k + column + c]);
    subtract_entries<A, V, K, Batched>(m, s.x, k, column, m.cluster_entry[i], m.length[i], sum);
    for (int c = 0; c < K; ++c) relax_one(s, i * k + column + c, m.inverse[Batched ? i * k + column + c : i] * sum[c]);
}

template <class A, class V, bool Batched>
void sweep_clusters(const RelaxRows<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
                    int64_t columns) {
    for_tiles(column, columns, [&]<int K>(int64_t at) {
        for (int64_t i = first; i < last; ++i) {
            if (s.d)
                step_cluster<A, V, K, Batched>(m, s, i, at);
            else if (s.backward)
                sweep_cluster<A, V, K, Batched, true>(m, s, i, at);
            else
                sweep_cluster<A, V, K, Batched, false>(m, s, i, at);
        }
    });
}

template <class A, class V, int K, bool Batched>
void residual_chunk(const RelaxRows<A, V>& m, const RelaxResidual<V>& s, int64_t chunk, int64_t column) {
    typedef sum_of<V> S;
    const int64_t k = s.k, lead = Batched ? k : 1, shift = Batched ? column : 0;
    const int64_t last = min_of(m.n, (chunk + 1) * kChunkRows);
    int64_t entry = m.chunk_entry[chunk];
    ChunkResidual<V, K> found{s, chunk, column};
    for (int64_t i = chunk * kChunkRows; i < last; ++i) {
        const V* x = s.x + i * k + column;
        S sum[K];
        for (int c = 0; c < K; ++c) sum[c] = wide(s.b[i * k + column + c]);
        subtract_entries<A, V, K, Batched>(m, s.x, k, column, entry, m.length[i], sum);
        entry += m.length[i];
        const int64_t at = i * lead + shift;
        if (i > 0) subtract_neighbour<A, V, K, Batched>(m.before + at, x - k, sum);
        if (i + 1 < m.n) subtract_neighbour<A, V, K, Batched>(m.after + at, x + k, sum);
        for (int c = 0; c < K; ++c) sum[c] = sum[c] - wide(m.diagonal[at + (Batched ? c : 0)]) * wide(x[c]);
        found.add(i, sum);
    }
    found.store();
}

} // namespace

template <class A, class V>
void relax_rows(const RelaxRows<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
                int64_t columns) {
    if (m.batched)
        sweep_clusters<A, V, true>(m, s, first, last, column, columns);
    else
        sweep_clusters<A, V, false>(m, s, first, last, column, columns);
}

template <class A, class V>
void relax_rows_residual(const RelaxRows<A, V>& m, const RelaxResidual<V>& s, int64_t first, int64_t last) {
    for_tiles(0, s.k, [&]<int K>(int64_t at) {
        for (int64_t chunk = first; chunk < last; ++chunk) {
            if (m.batched)
                residual_chunk<A, V, K, true>(m, s, chunk, at);
            else
                residual_chunk<A, V, K, false>(m, s, chunk, at);
        }
    });
}

#define FASTITER_INSTANTIATE(A, V)                                                                             \
    template void relax_rows(const RelaxRows<A, V>&, const RelaxStep<V>&, int64_t, int64_t, int64_t, int64_t); \
    template void relax_rows_residual(const RelaxRows<A, V>&, const RelaxResidual<V>&, int64_t, int64_t);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::FASTITER_LEVEL
