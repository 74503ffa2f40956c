// Kaczmarz projections on A x = b for SELL slices: x += omega (b_i - a_i x) conj(a_i) / |a_i|^2. Rows of one colour
// have no column in common, so they run in parallel. x (columns of A, k), b (rows, k); rows here are ordered by colour,
// and row (n) maps each to its row of b. Phases, `arrived` and defines are as in sweeps.cu; lanes with fewer entries
// than their slice are padded with the column -1.
INLINE double conjugate(double x) { return x; }
INLINE Complex conjugate(Complex x) { return {x.re, -x.im}; }

// Calls f(entry, column) for the lane's entries.
template <class F> INLINE void for_entries(const Slices& m, int64 s, F f) {
    const int64 last = m.slice_entry[s + 1];
    for (int64 e = m.slice_entry[s] + threadIdx.x % 32; e < last; e += 32)
        if (m.column[e] >= 0) f(e, int64(m.column[e]));
}

// b - a x, in all lanes of a row
INLINE void projection_sums(const Slices& m, const Vectors& v, const int32* row, int64 s, const Slice& slice,
                            int64 column, int columns, S (&sum)[COLUMNS]) {
    for (int c = 0; c < COLUMNS; ++c)
        sum[c] = slice.leads && c < columns ? wide(v.b[row[slice.row] * v.k + column + c]) : S{};
    for_entries(m, s, [&](int64 e, int64 at) {
        const auto value = wide(m.value[e]);
        for (int c = 0; c < COLUMNS; ++c)
            if (c < columns) sum[c] = sum[c] - value * v.at(at * v.k + column + c);
    });
    for (int mask = slice.lanes / 2; mask > 0; mask /= 2)
        for (int c = 0; c < COLUMNS; ++c) sum[c] = sum[c] + from_xor(sum[c], mask);
}

// colour (colours + 1): the first slice of each; inverse (n): 1 / |a_i|^2, 0 for a row of zeros
KERNEL __launch_bounds__(256, RESIDENT)
    relax_projections_kernel(const int32* slice_row, const int64* slice_entry, const int32* column, const A* value,
                             const int32* row, const double* inverse, const int64* colour, const V* b, V* x,
                             const double* omega, int64 k, int32 colours, int32 kind, int64 first, int64 last,
                             uint32* arrived) {
    const Slices m(slice_row, slice_entry, column, value, 0);
    for_phases(b, x, x, omega, k, 0, colours, kind, first, last, arrived, [&](const Vectors& v, int32 turn) {
        for_items(colour[turn], colour[turn + 1], k, [&](int64 s, int64 at, int columns) {
            const Slice slice(m, s);
            S sum[COLUMNS];
            projection_sums(m, v, row, s, slice, at, columns, sum);
            const double scale = v.omega * inverse[slice.row];
            for_entries(m, s, [&](int64 e, int64 to) {
                const auto value = conjugate(wide(m.value[e]));
                for (int c = 0; c < COLUMNS; ++c) {
                    const int64 index = to * k + at + c;
                    if (c < columns) assign(v.y[index], v.at(index) + scale * (value * sum[c]));
                }
            });
        });
    });
}

// r = b - A x unless r is null; norms (slices, k): the sums of |r|^2 over the rows of each slice
KERNEL __launch_bounds__(256, RESIDENT)
    relax_projections_residual_kernel(const int32* slice_row, const int64* slice_entry, const int32* column,
                                      const A* value, const int32* row, int64 slices, const V* b, const V* x, V* r,
                                      double* norms, int64 k) {
    const Slices m(slice_row, slice_entry, column, value, 0);
    const Vectors v{b, x, r, k, 1, false, 0};
    for_items(0, slices, k, [&](int64 s, int64 at, int columns) {
        const Slice slice(m, s);
        S sum[COLUMNS];
        double parts[COLUMNS] = {};
        projection_sums(m, v, row, s, slice, at, columns, sum);
        for (int c = 0; c < COLUMNS; ++c)
            if (slice.leads && c < columns) {
                parts[c] = square(sum[c]);
                if (r) assign(r[row[slice.row] * k + at + c], sum[c]);
            }
        store_norms(parts, norms, s, k, at, columns);
    });
}
