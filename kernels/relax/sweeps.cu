// Sweeps of relaxation over A x = b, and residuals, for SELL slices and for BSR blocks. With z_i = (b_i - sum over j !=
// i of a_ij x_j) / a_ii:   y_i = (1 - omega) x_i + omega z_i.   Jacobi: y is a separate buffer. Coloured orders: y is
// x; rows of one colour are contiguous and not coupled.
//
// x, b, y (n, k) are contiguous. Sums are in double, or Complex. A phase is the rows of one colour, or a sweep of
// Jacobi's method: a launch runs the phases [first, last) of a sequence of sweeps. With several phases, `arrived` is
// initially 0, all blocks are resident, and they synchronise between phases; with one phase, arrived is null.
//
// Defines: MATRIX and VECTOR, the storage types of A and x: float, double or Complex; COLUMNS of x per thread;
// BLOCK_ROWS, 2 if blocks have more than 32 rows; RESIDENT, blocks per SM; SYSTEMS, 1 if the slices are those of k
// systems with one sparsity pattern, each with its own values, x, b and y, stored one after the other.

// ---- slices ---------------------------------------------------------------------------------------------------------

// b minus the entries times x, in all lanes of a row
INLINE void slice_sums(const Slices& m, const Vectors& v, int64 s, const Slice& slice, int64 column, int columns,
                       S (&sum)[COLUMNS]) {
    for (int c = 0; c < COLUMNS; ++c)
        sum[c] = slice.leads && c < columns ? wide(v.b[v.place(slice.row, column + c)]) : S{};
    const A* of_system = m.value + (SYSTEMS ? column * m.entries : 0);
    const int64 last = m.slice_entry[s + 1];
#pragma unroll 4
    for (int64 e = m.slice_entry[s] + threadIdx.x % 32; e < last; e += 32) {
        const auto value = wide(of_system[e]);
        const int64 from = v.place(m.column[e], column);
        for (int c = 0; c < COLUMNS; ++c)
            if (c < columns) sum[c] = sum[c] - value * v.at(from + c);
    }
    for (int mask = slice.lanes / 2; mask > 0; mask /= 2)
        for (int c = 0; c < COLUMNS; ++c) sum[c] = sum[c] + from_xor(sum[c], mask);
}

// colour (colours + 1): the first slice of each; inverse (n): 1 / diagonal
KERNEL __launch_bounds__(256, RESIDENT)
    relax_slices_kernel(const int32* slice_row, const int64* slice_entry, const int32* column, const A* value,
                        const S* inverse, const int64* colour, const V* b, V* x, V* y, const double* omega, int64 k,
                        int32 colours, int32 kind, int64 first, int64 last, uint32* arrived) {
    const Slices m(slice_row, slice_entry, column, value, colour[SYSTEMS ? colours : 0]);
    const int64 rows = SYSTEMS ? slice_row[colour[colours]] : 0;
    for_phases(b, x, y, omega, k, rows, colours, kind, first, last, arrived, [&](const Vectors& v, int32 turn) {
        for_items(colour[turn], colour[turn + 1], k, [&](int64 s, int64 at, int columns) {
            const Slice slice(m, s);
            S sum[COLUMNS];
            slice_sums(m, v, s, slice, at, columns, sum);
            for (int c = 0; c < COLUMNS; ++c)
                if (slice.leads && c < columns)
                    v.relax(v.place(slice.row, at + c), inverse[SYSTEMS ? v.place(slice.row, at) : slice.row] * sum[c]);
        });
    });
}

// r = b - A x unless r is null; norms (slices, k): the sums of |r|^2 over the rows of each slice
KERNEL __launch_bounds__(256, RESIDENT)
    relax_slices_residual_kernel(const int32* slice_row, const int64* slice_entry, const int32* column, const A* value,
                                 const A* diagonal, int64 slices, const V* b, const V* x, V* r, double* norms,
                                 int64 k) {
    const Slices m(slice_row, slice_entry, column, value, slices);
    const Vectors v{b, x, r, k, 1, false, SYSTEMS ? slice_row[slices] : 0};
    for_items(0, slices, k, [&](int64 s, int64 at, int columns) {
        const Slice slice(m, s);
        S sum[COLUMNS];
        double parts[COLUMNS] = {};
        slice_sums(m, v, s, slice, at, columns, sum);
        for (int c = 0; c < COLUMNS; ++c)
            if (slice.leads && c < columns) {
                const int64 index = v.place(slice.row, at + c);
                sum[c] = sum[c] - wide(diagonal[SYSTEMS ? index : slice.row]) * v.at(index);
                parts[c] = square(sum[c]);
                if (r) assign(r[index], sum[c]);
            }
        store_norms(parts, norms, s, k, at, columns);
    });
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

// Block rows with column-major blocks of size x size (BSR); x and b have `size` rows per block row. The diagonal blocks
// are stored separately.
struct Blocks {
    const int64* start; // (n + 1) first block of each row
    const int32* column;
    const A* value;
    int32 size;
};

// The lane's position: a block row has `size` lanes, or 32 lanes with two rows each; a warp has as many of them as fit.
struct Place {
    int64 row; // block row
    int lane, first, group;
    bool active;
    INLINE Place(int64 item, int64 end, int32 size) {
        group = 1;
        while (group < size && group < 32) group *= 2;
        lane = threadIdx.x % group;
        first = threadIdx.x % 32 - lane;
        row = item * (32 / group) + first / group;
        active = row < end;
    }
    INLINE bool has(int h, int32 size) const { return active && lane + 32 * h < size; }
};

using Sums = S[BLOCK_ROWS][COLUMNS];

// sum -= block x for rows lane and lane + 32 of a block
INLINE void subtract_block(const Vectors& v, const A* block, int32 size, int64 from, const Place& p, int columns,
                           Sums& sum) {
    for (int q = 0; q < size; ++q)
        for (int h = 0; h < BLOCK_ROWS; ++h)
            if (p.has(h, size)) {
                const auto value = wide(block[q * size + p.lane + 32 * h]);
                for (int c = 0; c < COLUMNS; ++c)
                    if (c < columns) sum[h][c] = sum[h][c] - value * v.at(from + q * v.k + c);
            }
}

// b minus the entries times x
INLINE void block_sums(const Blocks& m, const Vectors& v, const Place& p, int64 column, int columns, Sums& sum) {
    const int64 area = int64(m.size) * m.size;
    for (int h = 0; h < BLOCK_ROWS; ++h)
        for (int c = 0; c < COLUMNS; ++c)
            sum[h][c] = p.has(h, m.size) && c < columns
                            ? wide(v.b[(p.row * m.size + p.lane + 32 * h) * v.k + column + c])
                            : S{};
    if (!p.active) return;
    for (int64 e = m.start[p.row]; e < m.start[p.row + 1]; ++e)
        subtract_block(v, m.value + e * area, m.size, int64(m.column[e]) * m.size * v.k + column, p, columns, sum);
}

// colour (colours + 1): the first block row of each; inverse (n, size, size) of the diagonal blocks, column-major
KERNEL __launch_bounds__(256, RESIDENT)
    relax_blocks_kernel(const int64* start, const int32* column, const A* value, const S* inverse, const int64* colour,
                        int32 size, const V* b, V* x, V* y, const double* omega, int64 k, int32 colours, int32 kind,
                        int64 first, int64 last, uint32* arrived) {
    const Blocks m{start, column, value, size};
    const int64 area = int64(size) * size;
    for_phases(b, x, y, omega, k, 0, colours, kind, first, last, arrived, [&](const Vectors& v, int32 turn) {
        const int64 begin = colour[turn], rows = colour[turn + 1] - begin, at_once = 32 / Place(0, 1, size).group;
        for_items(0, (rows + at_once - 1) / at_once, k, [&](int64 item, int64 at, int columns) {
            Place p(item, rows, size);
            p.row = p.active ? p.row + begin : 0;
            Sums sum, z = {};
            block_sums(m, v, p, at, columns, sum);
            for (int half = 0; half < BLOCK_ROWS; ++half)
                for (int q = 32 * half; q < min(size, 32 * half + 32); ++q)
                    for (int c = 0; c < COLUMNS; ++c) {
                        const S other = from(sum[half][c], p.first + q % 32);
                        for (int h = 0; h < BLOCK_ROWS; ++h)
                            if (p.has(h, size))
                                z[h][c] = z[h][c] + inverse[p.row * area + q * size + p.lane + 32 * h] * other;
                    }
            for (int h = 0; h < BLOCK_ROWS; ++h)
                for (int c = 0; c < COLUMNS; ++c)
                    if (p.has(h, size) && c < columns) v.relax((p.row * size + p.lane + 32 * h) * k + at + c, z[h][c]);
        });
    });
}

// norms (items, k), where an item is as many block rows as fit in a warp; diagonal (n, size, size), column-major
KERNEL __launch_bounds__(256, RESIDENT)
    relax_blocks_residual_kernel(const int64* start, const int32* column, const A* value, const A* diagonal, int64 n,
                                 int32 size, const V* b, const V* x, V* r, double* norms, int64 k) {
    const Blocks m{start, column, value, size};
    const Vectors v{b, x, r, k, 1, false, 0};
    const int64 at_once = 32 / Place(0, 1, size).group;
    for_items(0, (n + at_once - 1) / at_once, k, [&](int64 item, int64 at, int columns) {
        const Place p(item, n, size);
        Sums sum;
        double parts[COLUMNS] = {};
        block_sums(m, v, p, at, columns, sum);
        if (p.active) subtract_block(v, diagonal + p.row * size * size, size, p.row * size * k + at, p, columns, sum);
        for (int h = 0; h < BLOCK_ROWS; ++h)
            for (int c = 0; c < COLUMNS; ++c)
                if (p.has(h, size) && c < columns) {
                    parts[c] += square(sum[h][c]);
                    if (r) assign(r[(p.row * size + p.lane + 32 * h) * k + at + c], sum[h][c]);
                }
        store_norms(parts, norms, item, k, at, columns);
    });
}
