// SELL kernels, eight independent rows at a time: coloured sweeps, Jacobi, Chebyshev and residuals.
#include "relax/cpu/columns.hpp"

namespace fastiter::relax::FASTITER_LEVEL {
namespace {

constexpr int kParts = kSliceRows / lanes<double>; // vectors with one number per row

using halves __attribute__((vector_size(kVectorBytes / 2), aligned(4))) = float;
FASTITER_INLINE vec<double> load_wide(const double* p) { return load(p); }
FASTITER_INLINE vec<double> load_wide(const float* p) {
    return __builtin_convertvector(*reinterpret_cast<const halves*>(p), vec<double>);
}

FASTITER_INLINE void store_narrow(double* p, vec<double> v) { store(p, v); }
FASTITER_INLINE void store_narrow(float* p, vec<double> v) {
    *reinterpret_cast<halves*>(p) = __builtin_convertvector(v, halves);
}

template <class V> FASTITER_INLINE vec<double> gather(const V* x, const int32_t* at) {
    vec<double> v{};
    for (int i = 0; i < lanes<double>; ++i) v[i] = double(x[at[i]]);
    return v;
}
#if defined(__AVX512F__)
FASTITER_INLINE vec<double> gather(const double* x, const int32_t* at) {
    return (vec<double>)_mm512_i32gather_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), x, 8);
}
#endif

// The column of entry `entry` of one of the eight rows
template <class A, class V> FASTITER_INLINE int64_t column_of(const SellMatrix<A, V>& m, int64_t entry, int64_t row) {
    const int32_t run = m.run[entry];
    return run >= 0 ? run + row : m.column[int64_t(~run) * kSliceRows + row];
}

// sum = b - (entries) x for the rows of a full slice, with one real right-hand side
template <class A, class V>
FASTITER_INLINE void whole_sums(const SellMatrix<A, V>& m, const V* b, const V* x, int64_t slice,
                                vec<double> (&sum)[kParts]) {
    for (int p = 0; p < kParts; ++p) sum[p] = load_wide(b + slice * kSliceRows + p * lanes<double>);
    constexpr int64_t kAhead = 1024 / sizeof(A); // prefetch distance in entries
    for (int64_t e = m.start[slice]; e < m.start[slice + 1]; ++e) {
        const A* value = m.value + e * kSliceRows;
        const int32_t run = m.run[e];
        __builtin_prefetch(value + kAhead);
        if (run >= 0)
            for (int p = 0; p < kParts; ++p)
                sum[p] -= load_wide(value + p * lanes<double>) * load_wide(x + run + p * lanes<double>);
        else {
            const int32_t* column = m.column + int64_t(~run) * kSliceRows;
            __builtin_prefetch(column + kAhead);
            for (int p = 0; p < kParts; ++p)
                sum[p] -= load_wide(value + p * lanes<double>) * gather(x, column + p * lanes<double>);
        }
    }
}

// The same for any slice, real or complex, row by row
template <class A, class V>
FASTITER_INLINE void slice_sums(const SellMatrix<A, V>& m, const V* b, const V* x, int64_t slice, int64_t rows,
                                sum_of<V> (&sums)[kSliceRows]) {
    for (int64_t i = 0; i < rows; ++i) {
        sums[i] = wide(b[slice * kSliceRows + i]);
        for (int64_t e = m.start[slice]; e < m.start[slice + 1]; ++e)
            sums[i] = sums[i] - wide(m.value[e * kSliceRows + i]) * wide(x[column_of(m, e, i)]);
    }
}

// The formula at the head of kernels.hpp, for a full slice
template <class A, class V>
FASTITER_INLINE void whole_slice(const SellMatrix<A, V>& m, const RelaxStep<V>& s, int64_t slice) {
    const double keep = 1 - s.omega;
    vec<double> sum[kParts];
    whole_sums(m, s.b, s.x, slice, sum);
    for (int p = 0; p < kParts; ++p) {
        const int64_t at = slice * kSliceRows + p * lanes<double>;
        const vec<double> z = load(m.inverse + at) * sum[p];
        if (s.d) {
            const vec<double> x = load_wide(s.x + at);
            const vec<double> d = s.momentum * load_wide(s.d + at) + s.omega * (z - x);
            store_narrow(s.d + at, d);
            store_narrow(s.y + at, x + d);
        } else
            store_narrow(s.y + at, keep != 0 ? keep * load_wide(s.x + at) + s.omega * z : z);
    }
}

template <class A, class V>
void sweep_slices(const SellMatrix<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last) {
    for (int64_t slice = first; slice < last; ++slice) {
        const int64_t row = slice * kSliceRows, rows = min_of(m.n - row, kSliceRows);
        if constexpr (sizeof(A) < 16)
            if (rows == kSliceRows) {
                whole_slice(m, s, slice);
                continue;
            }
        sum_of<V> sums[kSliceRows];
        slice_sums(m, s.b, s.x, slice, rows, sums);
        for (int64_t i = 0; i < rows; ++i) relax_one(s, row + i, m.inverse[row + i] * sums[i]);
    }
}

template <class A, class V> void residual_slices(const SellMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t chunk) {
    const int64_t end = min_of((chunk + 1) * kChunkRows, m.n);
    double norms[kSliceRows] = {};
    for (int64_t row = chunk * kChunkRows; row < end; row += kSliceRows) {
        const int64_t rows = min_of(m.n - row, kSliceRows);
        sum_of<V> sums[kSliceRows];
        bool is_whole = false;
        if constexpr (sizeof(A) < 16)
            if (rows == kSliceRows) {
                vec<double> sum[kParts];
                whole_sums(m, s.b, s.x, row / kSliceRows, sum);
                for (int p = 0; p < kParts; ++p) store(sums + p * lanes<double>, sum[p]);
                is_whole = true;
            }
        if (!is_whole) slice_sums(m, s.b, s.x, row / kSliceRows, rows, sums);
        for (int64_t i = 0; i < rows; ++i) {
            const sum_of<V> r = sums[i] - wide(m.diagonal[row + i]) * wide(s.x[row + i]);
            norms[i] += square(r);
            if (s.r) assign(s.r[row + i], r);
        }
    }
    double norm = 0;
    for (double part : norms) norm += part;
    s.norms[chunk] = norm;
}

// b minus the entries times x, for one row of a slice and K right-hand sides
template <class A, class V, int K>
FASTITER_INLINE Columns<sum_of<V>, K> row_sums(const SellMatrix<A, V>& m, const V* b, const V* x, int64_t k,
                                               int64_t row, int64_t column) {
    const int64_t slice = row / kSliceRows, i = row % kSliceRows;
    Columns<sum_of<V>, K> sum(b + row * k + column);
    for (int64_t e = m.start[slice]; e < m.start[slice + 1]; ++e)
        sum.subtract(wide(m.value[e * kSliceRows + i]), x + column_of(m, e, i) * k + column);
    return sum;
}

template <class A, class V, int K>
void residual_rows(const SellMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t chunk, int64_t column) {
    ChunkResidual<V, K> residual{s, chunk, column};
    const int64_t end = min_of((chunk + 1) * kChunkRows, m.n);
    for (int64_t row = chunk * kChunkRows; row < end; ++row) {
        auto sum = row_sums<A, V, K>(m, s.b, s.x, s.k, row, column);
        sum.subtract(wide(m.diagonal[row]), s.x + row * s.k + column);
        sum_of<V> sums[K];
        sum.store(sums);
        residual.add(row, sums);
    }
    residual.store();
}

} // namespace

template <class A, class V>
void sweep_sell(const SellMatrix<A, V>& m, const RelaxStep<V>& s, int64_t first, int64_t last) {
    if (s.k == 1) return sweep_slices(m, s, first, last);
    const int64_t end = min_of(last * kSliceRows, m.n);
    for_blocks(first * kSliceRows, end, false, s.k, [&](int64_t begin, int64_t stop) {
        for_tiles(0, s.k, [&]<int K>(int64_t column) {
            for (int64_t row = begin; row < stop; ++row) {
                const auto sum = row_sums<A, V, K>(m, s.b, s.x, s.k, row, column);
                relax_columns(s, row * s.k + column, m.inverse[row], sum);
            }
        });
    });
}

template <class A, class V>
void residual_sell(const SellMatrix<A, V>& m, const RelaxResidual<V>& s, int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
        if (s.k == 1)
            residual_slices(m, s, chunk);
        else
            for_tiles(0, s.k, [&]<int K>(int64_t column) { residual_rows<A, V, K>(m, s, chunk, column); });
    }
}

#define FASTITER_INSTANTIATE(A, V)                                                            \
    template void sweep_sell(const SellMatrix<A, V>&, const RelaxStep<V>&, int64_t, int64_t); \
    template void residual_sell(const SellMatrix<A, V>&, const RelaxResidual<V>&, int64_t, int64_t);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::relax::FASTITER_LEVEL
