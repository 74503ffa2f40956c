// Clustered CSR sweeps, row by row: natural order, any other order, and batches of matrices with one sparsity pattern.
#include "relax/cpu/columns.hpp"

namespace fastiter::relax::FASTITER_LEVEL {
namespace {

// sum -= the entries of one row, except for the two neighbours' and the diagonal
template <class A, class V, int K, bool Batched>
FASTITER_INLINE void subtract_entries(const CsrMatrix<A, V>& m, const V* x, int64_t k, int64_t column, int64_t entry,
                                      int64_t count, Columns<sum_of<V>, K>& sum) {
    for (int64_t e = entry; e < entry + count; ++e) {
        const V* from = x + int64_t(m.column[e]) * k + column;
        if constexpr (Batched)
            sum.subtract_each(m.value + e * k + column, from);
        else
            sum.subtract(wide(m.value[e]), from);
    }
}

// sum -= a x, unless a is 0 (no entry)
template <class A, class V, int K, bool Batched>
FASTITER_INLINE void subtract_neighbour(const A* a, const V* x, Columns<sum_of<V>, K>& sum) {
    if constexpr (Batched)
        sum.subtract_nonzero(a, x);
    else if (!is_zero(wide(*a)))
        sum.subtract(wide(*a), x);
}

// y = scale sum + keep x - scale factor previous, without the last term if factor is 0 (no entry); sets `previous` to
// y.
template <class A, class V, int K, bool Batched>
FASTITER_INLINE void finish_row(double omega, double keep, const sum_of<V>* inverse, const A* factor, const V* x, V* y,
                                const Columns<sum_of<V>, K>& sum, Columns<sum_of<V>, K>& previous) {
    using S = sum_of<V>;
    using C = Columns<S, K>;
    for (int i = 0; i < C::count; ++i) {
        typename C::type now, less;
        if constexpr (Batched) {
            const auto scale = omega * C::read(inverse, i), f = C::read(factor, i);
            now = C::products(scale, sum.part[i]);
            if (keep != 0) now = now + keep * C::read(x, i);
            less = C::where_zero(f, now, now - C::products(C::products(scale, f), previous.part[i]));
        } else {
            const S scale = omega * *inverse, f = wide(*factor);
            now = C::product(scale, sum.part[i]);
            if (keep != 0) now = now + keep * C::read(x, i);
            less = now - C::product(scale * f, previous.part[i]);
            if (is_zero(f)) less = now;
        }
        C::write(y, i, less);
        previous.part[i] = sizeof(V) == 4 ? C::read(y, i) : less;
    }
}

// In a backward sweep, "before" is row i + 1. Everything independent of its x is computed first: the next row then
// waits for two operations only, instead of a load, a store and a sum. Returns the first entry of the rows that follow.
template <class A, class V, int K, bool Batched, bool Backward>
int64_t sweep_rows(const CsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t cluster, int64_t begin, int64_t end,
                   int64_t entry, int64_t column) {
    using C = Columns<sum_of<V>, K>;
    const int64_t k = s.k, first = m.cluster_row[cluster], last = m.cluster_row[cluster + 1];
    const A *linked = Backward ? m.after : m.before, *other = Backward ? m.before : m.after;
    const int64_t step = Backward ? -1 : 1, lead = Batched ? k : 1, shift = Batched ? column : 0;
    const double omega = s.omega, keep = 1 - omega;
    int64_t i = Backward ? end - 1 : begin;
    C previous;
    if (i - step >= first && i - step < last) previous = C(s.y + (i - step) * k + column);
    for (; i >= begin && i < end; i += step) {
        const int64_t count = m.length[i], at = i * lead + shift;
        if (Backward) entry -= count;
        const V* x = s.x + i * k + column;
        C sum(s.b + i * k + column);
        subtract_entries<A, V, K, Batched>(m, s.x, k, column, entry, count, sum);
        if (!Backward) entry += count;
        if (i + step >= first && i + step < last) subtract_neighbour<A, V, K, Batched>(other + at, x + step * k, sum);
        finish_row<A, V, K, Batched>(omega, keep, m.inverse + at, linked + at, x, s.y + i * k + column, sum, previous);
    }
    return entry;
}

template <class A, class V, bool Batched, bool Backward>
void sweep_cluster(const CsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t cluster, int64_t column, int64_t columns) {
    int64_t entry = m.cluster_entry[Backward ? cluster + 1 : cluster];
    for_blocks(m.cluster_row[cluster], m.cluster_row[cluster + 1], Backward, columns, [&](int64_t begin, int64_t end) {
        int64_t next = entry;
        for_tiles(column, columns, [&]<int K>(int64_t at) {
            next = sweep_rows<A, V, K, Batched, Backward>(m, s, cluster, begin, end, entry, at);
        });
        entry = next;
    });
}

// Clusters of one row each, with momentum: Jacobi and Chebyshev on batches.
template <class A, class V, int K, bool Batched>
void step_cluster(const CsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t i, int64_t column) {
    const int64_t at = i * s.k + column;
    Columns<sum_of<V>, K> sum(s.b + at);
    subtract_entries<A, V, K, Batched>(m, s.x, s.k, column, m.cluster_entry[i], m.length[i], sum);
    sum_of<V> sums[K];
    sum.store(sums);
    for (int c = 0; c < K; ++c) relax_one(s, at + c, m.inverse[Batched ? at + c : i] * sums[c]);
}

template <class A, class V, bool Batched>
void sweep_clusters(const CsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
                    int64_t columns) {
    for (int64_t i = first; i < last; ++i) {
        if (s.d)
            for_tiles(column, columns, [&]<int K>(int64_t at) { step_cluster<A, V, K, Batched>(m, s, i, at); });
        else if (s.backward)
            sweep_cluster<A, V, Batched, true>(m, s, i, column, columns);
        else
            sweep_cluster<A, V, Batched, false>(m, s, i, column, columns);
    }
}

template <class A, class V, int K, bool Batched>
void residual_chunk(const CsrMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t chunk, int64_t column) {
    const int64_t k = s.k, lead = Batched ? k : 1, shift = Batched ? column : 0;
    const int64_t last = min_of(m.n, (chunk + 1) * kChunkRows);
    int64_t entry = m.chunk_entry[chunk];
    ChunkResidual<V, K> residual{s, chunk, column};
    for (int64_t i = chunk * kChunkRows; i < last; ++i) {
        const V* x = s.x + i * k + column;
        Columns<sum_of<V>, K> sum(s.b + i * k + column);
        subtract_entries<A, V, K, Batched>(m, s.x, k, column, entry, m.length[i], sum);
        entry += m.length[i];
        const int64_t at = i * lead + shift;
        if (i > 0) subtract_neighbour<A, V, K, Batched>(m.before + at, x - k, sum);
        if (i + 1 < m.n) subtract_neighbour<A, V, K, Batched>(m.after + at, x + k, sum);
        if constexpr (Batched)
            sum.subtract_each(m.diagonal + at, x);
        else
            sum.subtract(wide(m.diagonal[at]), x);
        sum_of<V> sums[K];
        sum.store(sums);
        residual.add(i, sums);
    }
    residual.store();
}

} // namespace

template <class A, class V>
void sweep_csr(const CsrMatrix<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
               int64_t columns) {
    if (m.batched)
        sweep_clusters<A, V, true>(m, s, first, last, column, columns);
    else
        sweep_clusters<A, V, false>(m, s, first, last, column, columns);
}

template <class A, class V>
void residual_csr(const CsrMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
        for_tiles(0, s.k, [&]<int K>(int64_t at) {
            if (m.batched)
                residual_chunk<A, V, K, true>(m, s, chunk, at);
            else
                residual_chunk<A, V, K, false>(m, s, chunk, at);
        });
}

#define FASTITER_INSTANTIATE(A, V)                                                                            \
    template void sweep_csr(const CsrMatrix<A, V>&, const RelaxStep<V>&, int64_t, int64_t, int64_t, int64_t); \
    template void residual_csr(const CsrMatrix<A, V>&, const RelaxResidual<V>&, int64_t, int64_t);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::relax::FASTITER_LEVEL
