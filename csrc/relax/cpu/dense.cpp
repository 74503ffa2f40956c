// Dense matrices, projections onto rows (Kaczmarz), and the kernel table of relaxation.
#include "relax/cpu/columns.hpp"

namespace fastiter::relax::FASTITER_LEVEL {
namespace {

constexpr int kLines = 8; // partial sums of a long row, the same number on every instruction set

// sum = b - A[row] x, including the diagonal
template <class A, class V, int K>
FASTITER_INLINE void dense_sums(const DenseMatrix<A, V>& m, const V* b, const V* x, int64_t k, int64_t row,
                                int64_t column, sum_of<V> (&sum)[K]) {
    using S = sum_of<V>;
    const A* value = m.value + row * m.n;
    Columns<S, K> sums(b + row * k + column);
    int64_t j = 0;
    if (K == 1 && k == 1) {
        S part[kLines] = {};
        for (; j + kLines <= m.n; j += kLines)
            for (int l = 0; l < kLines; ++l) part[l] = part[l] + wide(value[j + l]) * wide(x[j + l]);
        sums.store(sum);
        for (int l = 0; l < kLines; ++l) sum[0] = sum[0] - part[l];
        sums = Columns<S, K>(sum);
    }
    for (; j < m.n; ++j) sums.subtract(wide(value[j]), x + j * k + column);
    sums.store(sum);
}

// b - a_row x; entries are ordered by when their x is known, those updated by the previous row last.
template <class A, class V, int K, bool Batched>
FASTITER_INLINE Columns<sum_of<V>, K> projection_sums(const KaczmarzMatrix<A, V>& m, const V* b, const V* x, int64_t k,
                                                      int64_t row, int64_t column) {
    Columns<sum_of<V>, K> sum(b + row * k + column);
    for (int64_t e = m.start[row]; e < m.start[row + 1]; ++e) {
        const V* from = x + int64_t(m.column[e]) * k + column;
        if constexpr (Batched)
            sum.subtract_each(m.value + e * k + column, from);
        else
            sum.subtract(wide(m.value[e]), from);
    }
    return sum;
}

template <class A, class V, int K, bool Batched>
void project(const KaczmarzMatrix<A, V>& m, const RelaxStep<V>& s, int64_t begin, int64_t end, int64_t column) {
    using C = Columns<sum_of<V>, K>;
    for (int64_t t = 0; t < end - begin; ++t) {
        const int64_t row = s.backward ? end - 1 - t : begin + t;
        C sum = projection_sums<A, V, K, Batched>(m, s.b, s.x, s.k, row, column);
        if constexpr (Batched) {
            for (int i = 0; i < C::count; ++i) {
                const auto inverse = C::read(m.inverses + row * s.k + column, i);
                sum.part[i] = C::where_zero(inverse, inverse, s.omega * inverse * sum.part[i]);
            }
        } else {
            const double scale = s.omega * m.inverse[row];
            if (scale == 0) continue;
            for (auto& part : sum.part) part = scale * part;
        }
        for (int64_t e = m.start[row]; e < m.start[row + 1]; ++e) {
            V* to = s.y + int64_t(m.column[e]) * s.k + column;
            for (int i = 0; i < C::count; ++i) {
                if constexpr (Batched) {
                    const auto factor = C::conjugates(C::read(m.value + e * s.k + column, i));
                    C::write(to, i, C::read(to, i) + C::products(factor, sum.part[i]));
                } else
                    C::write(to, i, C::read(to, i) + C::product(conjugate(wide(m.value[e])), sum.part[i]));
            }
        }
    }
}

// sums(row, at, sum) sets sum = b - a_row x for K columns from `at` on.
template <class V, class F>
void residual_of_rows(int64_t n, const RelaxResidual<V>& s, int64_t first, int64_t last, F sums) {
    for_tiles(0, s.k, [&]<int K>(int64_t at) {
        for (int64_t chunk = first; chunk < last; ++chunk) {
            ChunkResidual<V, K> residual{s, chunk, at};
            for (int64_t row = chunk * kChunkRows; row < min_of(n, (chunk + 1) * kChunkRows); ++row) {
                sum_of<V> sum[K];
                sums.template operator()<K>(row, at, sum);
                residual.add(row, sum);
            }
            residual.store();
        }
    });
}

} // namespace

// z_i = x_i + (b - A x)_i / a_ii, so that the sum over the whole row needs no exception for the diagonal.
template <class A, class V>
void sweep_dense(const DenseMatrix<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last, int64_t column,
                 int64_t columns) {
    for_tiles(column, columns, [&]<int K>(int64_t at) {
        for (int64_t t = first; t < last; ++t) {
            const int64_t step = s.backward ? last - 1 - (t - first) : t, row = m.order ? m.order[step] : step;
            sum_of<V> sum[K];
            dense_sums<A, V, K>(m, s.b, s.x, s.k, row, at, sum);
            for (int c = 0; c < K; ++c) {
                const int64_t here = row * s.k + at + c;
                relax_one(s, here, wide(s.x[here]) + m.inverse[row] * sum[c]);
            }
        }
    });
}

template <class A, class V>
void residual_dense(const DenseMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t first, int64_t last) {
    residual_of_rows(m.n, s, first, last, [&]<int K>(int64_t row, int64_t at, sum_of<V>(&sum)[K]) {
        dense_sums<A, V, K>(m, s.b, s.x, s.k, row, at, sum);
    });
}

template <class A, class V>
void sweep_kaczmarz(const KaczmarzMatrix<A, V>& m, const RelaxStep<V>& s, int64_t column, int64_t columns) {
    for_blocks(0, m.n, s.backward, columns, [&](int64_t begin, int64_t end) {
        for_tiles(column, columns, [&]<int K>(int64_t at) {
            if (m.inverses)
                project<A, V, K, true>(m, s, begin, end, at);
            else
                project<A, V, K, false>(m, s, begin, end, at);
        });
    });
}

template <class A, class V>
void residual_kaczmarz(const KaczmarzMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t first, int64_t last) {
    residual_of_rows(m.n, s, first, last, [&]<int K>(int64_t row, int64_t at, sum_of<V>(&sum)[K]) {
        if (m.inverses)
            projection_sums<A, V, K, true>(m, s.b, s.x, s.k, row, at).store(sum);
        else
            projection_sums<A, V, K, false>(m, s.b, s.x, s.k, row, at).store(sum);
    });
}

namespace {
template <class A, class V>
constexpr KernelsOf<A, V> kernels_for = {
    sweep_csr<A, V>,    residual_csr<A, V>, sweep_sell<A, V>,     residual_sell<A, V>,  sweep_bsr<A, V>,
    residual_bsr<A, V>, sweep_dense<A, V>,  residual_dense<A, V>, sweep_kaczmarz<A, V>, residual_kaczmarz<A, V>,
};
} // namespace

const Kernels kernels = {kernels_for<float, float>, kernels_for<float, double>, kernels_for<double, double>,
                         kernels_for<Complex, Complex>};

} // namespace fastiter::relax::FASTITER_LEVEL
