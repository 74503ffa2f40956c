// c = a b + bias: packed panels of b stay in the outer caches, blocks of a in the second level, tiles of c in
// registers. bf16 are packed in pairs of k, as in core/cpu/product.hpp, and accumulated as floats. A packed line of b
// holds all columns of a panel at one k (bf16: one pair of k). A packed line of a holds all rows at one k, except for
// AMX tiles, which read contiguous k of a row.
#pragma once
#include "core/cpu/product.hpp"
#include "dense/cpu/gemm.hpp"

namespace fastiter::dense::FASTITER_LEVEL {

template <class T> struct MatrixProduct {
    static constexpr int W = lanes<T>, depth = side_by_side<T>, kPanelVectors = on_tiles<T> ? 2 : 4,
                         kRows = tile_rows<kPanelVectors>, kRowsOnTiles = 2 * kTileRows;
    static constexpr int64_t kPanel = kPanelVectors * W;
    static constexpr int64_t kBlockM = on_tiles<T> ? 160 : 168; // rows per block: a's part fits the second level
    static constexpr int64_t kPackedBytes = 8 << 20;            // bytes of b packed at a time
    // AMX tiles read a from the second-level cache, which holds more, and partial sums go through memory.
    static constexpr int64_t kDeepest = on_tiles<T> ? 1024 : kDeepestSum;
    // Lines of a panel that tiles process at a time: they stay in the first-level cache.
    static constexpr int64_t kPartOfPanel = 256;
    // The same if a is packed too: the lines packed at a time stay in the second-level cache until they are multiplied.
    static constexpr int64_t kDeepestPacked = on_tiles<T> ? kPartOfPanel : kDeepest;
    static constexpr int64_t kPackedTogether = on_tiles<T> ? 4 : 1; // panels per pass: contiguous in a line of b
    // Block heights are multiples of this; missing lines are zeros.
    static constexpr int64_t kLines = on_tiles<T> ? kTilePairs : 1;
    // Stride of a packed line of a, in numbers: an odd count of cache lines, so that a tile's lines spread over all
    // cache sets
    static constexpr int64_t kLineOfA = depth * round_up(kBlockM, 64 / (depth * int64_t(sizeof(T))));

    const Gemm<T>& g;
    // A row of `a` that is contiguous in k is read in place. bf16 rows are copied, padded to an even k and to a stride
    // that is no power of two. Any other layout is packed.
    const bool in_rows = g.a_k.inner_stride == 1 && g.a_k.is_regular(g.K) && g.a_m.is_regular(g.M),
               in_place = in_rows && depth == 1;
    // b is packed a chunk of several sum blocks at a time. If a is packed too, a chunk is one block, so that a long a
    // is read once, line by line. K, block and chunk count packed lines.
    const int64_t K = ceil_div(g.K, depth),
                  block = round_up(block_of_sum(K, in_rows ? kDeepest : kDeepestPacked), kLines),
                  chunk = in_rows ? blocks_that_fit() * block : block;
    const int64_t panels = ceil_div(g.N, kPanel);
    // Row stride of a, in numbers, if rows are copied or AMX tiles multiply
    const int64_t row_of_a = round_up(block * depth, 2 * W) + 2 * W;

    // Whether complete sums bypass the caches (streaming stores), which is possible only for whole cache lines: an
    // ordinary store that waits for its cache line takes longer than the products that it stores.
    const bool streams_rounded = g.rounded && exceeds_caches(g.rounded),
               streams_c = !g.rounded && K <= block && !g.accumulate && exceeds_caches(g.c);

    explicit MatrixProduct(const Gemm<T>& gemm) : g(gemm) {}

    template <class C> bool exceeds_caches(const C* c) const {
        const bool in_lines = kVectorBytes == 64 && reinterpret_cast<uintptr_t>(c) % 64 == 0 &&
                              g.c_m.inner_stride * int64_t(sizeof(C)) % 64 == 0 && g.c_m.is_regular(g.M);
        return in_lines && g.M * g.N * int64_t(sizeof(C)) > kCached;
    }

    int64_t blocks_that_fit() const {
        const int64_t line = max_of(1, ceil_div(g.N, kPanel)) * kPanel * depth * int64_t(sizeof(T));
        return max_of(1, min_of(ceil_div(K, block), kPackedBytes / line / block));
    }
    int64_t packed_b() const { return chunk * panels * kPanel * depth; }
    int64_t packed_a() const {
        const int64_t rows = round_up(kBlockM, W) * row_of_a, lines = round_up(block * kLineOfA, 64);
        return on_tiles<T> || (in_rows && depth > 1) ? rows : lines;
    }
    T* b() const { return static_cast<T*>(g.workspace); }
    T* a_of(int thread) const { return b() + packed_b() + thread * packed_a(); }

    int vectors_of(int64_t panel) const { return int(min_of(kPanelVectors, ceil_div(g.N - panel * kPanel, W))); }

    // A tile of a with its row stride and k stride
    struct TileOfA {
        const T* at;
        int64_t row, k;
    };

    // Addresses of the k in a packed line, for row 0 of a or for a panel of b; nullptr: zeros, for k past the end
    struct Lines {
        const T* at[depth];
        FASTITER_INLINE vec<T> load(int d, int64_t offset, int64_t count) const {
            return at[d] ? load_up_to(at[d] + offset, count) : vec<T>{};
        }
    };

    T* panel_of_b(int64_t panel, int64_t count) const { return b() + panel * kPanel * count * depth; }

    // Packs lines [k0, k0 + count) of some panels of b; lines from K on are zeros.
    void pack_b(Range some, int64_t k0, int64_t count) const {
        if (!g.b_lines && g.b_k.inner_stride == 1 && g.b_k.is_regular(g.K))
            for (int64_t j = some.begin; j < some.end; ++j) pack_columns_of_b(j, k0, count);
        else
            for (int64_t j = some.begin; j < some.end; j += kPackedTogether)
                pack_lines_of_b({j, min_of(j + kPackedTogether, some.end)}, k0, count);
    }

    // For columns that are contiguous in k
    void pack_columns_of_b(int64_t panel, int64_t k0, int64_t count) const {
        const int nv = vectors_of(panel);
        const int64_t n = panel * kPanel, depth_left = min_of(count, K - k0), line = nv * W * depth;
        T* out = panel_of_b(panel, count);
        for (int v = 0; v < nv; ++v)
            pack_transposed(g.b + g.b_n.at(n + v * W) + k0 * depth, g.b_n.inner_stride, g.N - n - v * W,
                            min_of(depth_left * depth, g.K - k0 * depth), out + v * W * depth, nv * W);
        __builtin_memset(out + depth_left * line, 0, size_t((count - depth_left) * line) * sizeof(T));
    }

    void pack_lines_of_b(Range some, int64_t k0, int64_t count) const {
        const int64_t n0 = some.begin * kPanel;
        for (int64_t k = 0; k < count; ++k) {
            Lines lines;
            for (int d = 0; d < depth; ++d) {
                const int64_t i = (k0 + k) * depth + d;
                lines.at[d] = i >= g.K ? nullptr : g.b_lines ? g.b_lines[i] : g.b + g.b_k.at(i);
                if (lines.at[d]) lines.at[d] += g.b_n.at(n0);
            }
            for (int64_t j = some.begin; j < some.end; ++j) {
                const int nv = vectors_of(j);
                T* out = panel_of_b(j, count) + k * nv * W * depth;
                for (int64_t v = 0, n = j * kPanel; v < nv; ++v, n += W)
                    store_side_by_side(out + v * W * depth, [&](int d) { return lines.load(d, n - n0, g.N - n); }, W);
            }
        }
    }

    // A run of contiguous rows of a
    struct Run {
        int64_t a, length;
    };
    int find_runs(int64_t m0, int64_t rows, Run* runs) const {
        int count = 0;
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t a = g.a_m.at(m0 + i);
            if (i > 0 && a == runs[count - 1].a + runs[count - 1].length)
                ++runs[count - 1].length;
            else
                runs[count++] = {a, 1};
        }
        return count;
    }

    Lines lines_of_a(int64_t k) const {
        Lines lines;
        for (int d = 0; d < depth; ++d) lines.at[d] = k * depth + d < g.K ? g.a + g.a_k.at(k * depth + d) : nullptr;
        return lines;
    }

    // Packs rows from m0 on of a as [k][row].
    void pack_a(int64_t m0, int64_t rows, int64_t k0, int64_t count, T* out) const {
        Run runs[kBlockM];
        const int run_count = find_runs(m0, rows, runs);
        for (int64_t k = 0; k < count; ++k) {
            const Lines lines = lines_of_a(k0 + k);
            T* to = out + k * kLineOfA;
            for (int r = 0; r < run_count; to += runs[r++].length * depth)
                for (int64_t i = 0; i < runs[r].length; i += W) {
                    const int64_t offset = runs[r].a + i, left = runs[r].length - i;
                    store_side_by_side(to + i * depth, [&](int d) { return lines.load(d, offset, left); }, left);
                }
        }
    }

    // The same as [row][pair of k], 16 pairs and 16 rows at a time
    void pack_a_for_tiles(int64_t m0, int64_t rows, int64_t k0, int64_t count, T* out) const {
        Run runs[kBlockM];
        const int run_count = find_runs(m0, rows, runs);
        for (int64_t k = 0; k < count; k += W) {
            Lines lines[W] = {};
            for (int64_t i = 0; i < min_of(W, count - k); ++i) lines[i] = lines_of_a(k0 + k + i);
            T* to = out + k * depth;
            for (int r = 0; r < run_count; to += runs[r++].length * row_of_a)
                for (int64_t i = 0; i < runs[r].length; i += W) {
                    const int64_t offset = runs[r].a + i, left = runs[r].length - i;
                    vec<float> pairs[W];
                    for (int j = 0; j < W; ++j)
                        pairs[j] = side_by_side_of(lines[j].load(0, offset, left), lines[j].load(1, offset, left));
                    transpose<float>(pairs);
                    for (int64_t j = 0; j < min_of(W, left); ++j)
                        __builtin_memcpy(to + (i + j) * row_of_a, &pairs[j], sizeof pairs[j]);
                }
        }
    }

    // The same for rows of a that are contiguous in k
    void copy_rows_of_a(int64_t m0, int64_t rows, int64_t k0, int64_t count, T* out) const {
        const int64_t numbers = min_of(count * depth, g.K - k0 * depth), zeros = count * depth - numbers;
        for (int64_t i = 0; i < rows; ++i, out += row_of_a) {
            __builtin_memcpy(out, g.a + g.a_m.at(m0 + i) + k0 * depth, size_t(numbers) * sizeof(T));
            __builtin_memset(out + numbers, 0, size_t(zeros) * sizeof(T));
        }
    }

    void prepare_a(int64_t m0, int64_t rows, int64_t k0, int64_t count, T* out) const {
        if (in_place) return;
        if (in_rows) return copy_rows_of_a(m0, rows, k0, count, out);
        if constexpr (on_tiles<T>)
            pack_a_for_tiles(m0, rows, k0, count, out);
        else
            pack_a(m0, rows, k0, count, out);
    }

    // Tile of a from row m and line k on; m is row `i` of the prepared block.
    TileOfA tile_of_a(const T* prepared, int64_t i, int64_t m, int64_t k) const {
        if (in_place) return {g.a + g.a_m.at(m) + k, g.a_m.inner_stride, 1};
        if (in_rows) return {prepared + i * row_of_a, row_of_a, depth};
        return {prepared + i * depth, depth, kLineOfA};
    }

    // Whether a block of the sum is the first one or the last one
    struct Part {
        bool first, last;
    };

    template <int R, int NV>
    void tile(TileOfA a, const T* panel, int64_t count, int64_t m, int64_t n, Part part) const {
        vec<T> acc[R][NV] = {}, sums[R * NV];
        const bool rounds = part.last && g.rounded;
        ask_for_rows(m, R, n, NV, part, rounds);
        if constexpr (depth == 1)
            multiply_add<T, R, NV, 1>(a.at, a.row, a.k, panel, 0, count, acc);
        else
            add_pairs<R, NV, 1>(a.at, a.row, a.k, panel, 0, count, acc);
#pragma GCC unroll 12
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sums[i * NV + v] = acc[i][v];
        finish_rows<NV>(m, R, n, sums, part, rounds);
    }

    // The code after the sums is not inlined: all heights of tiles share it.
    FASTITER_NOINLINE void ask_for_rows(int64_t m, int rows, int64_t n, int nv, Part part, bool rounds) const {
        for (int i = 0; i < rows; ++i) ask_for_c(m + i, n, nv, part, rounds);
    }
    template <int NV>
    FASTITER_NOINLINE void finish_rows(int64_t m, int rows, int64_t n, const vec<T>* sums, Part part,
                                       bool rounds) const {
        for (int i = 0; i < rows; ++i) finish_line<NV>(m + i, n, sums + i * NV, part, rounds);
    }

    // Prefetches the tile's rows of the output, as the stores would wait for their cache lines.
    FASTITER_INLINE void ask_for_c(int64_t m, int64_t n, int nv, Part part, bool rounds) const {
        const int64_t line = g.c_m.at(m) + n;
        if (rounds && !streams_rounded) prefetch<2>(g.rounded + line, nv * W);
        if (!part.first || !(rounds || streams_c)) prefetch<2>(g.c + line, nv * W);
    }

    template <int NV>
    FASTITER_INLINE void finish_line(int64_t m, int64_t n, const vec<T>* sums, Part part, bool rounds) const {
        const int64_t line = g.c_m.at(m) + n;
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) finish(line + v * W, n + v * W, sums[v], part, rounds);
    }

    void multiply(TileOfA a, int rows, const T* panel, int nv, int64_t count, int64_t m, int64_t n, Part part) const {
        with_count<kPanelVectors>(
            nv, [&]<int NV>() { with_count<kRows>(rows, [&]<int R>() { tile<R, NV>(a, panel, count, m, n, part); }); });
    }

    // All rows of a prepared block times a panel; the part of the panel in use stays in the first-level cache.
    template <int NV>
    void multiply_block(TileRegisters& registers, const T* a, int64_t rows, const T* panel, int64_t count, int64_t m,
                        int64_t n, Part part) const {
        vec<T> sums[kBlockM * NV];
        const bool rounds = part.last && g.rounded;
        for (int64_t k = 0; k < count; k += kPartOfPanel) {
            const int64_t lines = min_of(kPartOfPanel, count - k);
            for (int64_t i = 0; i < rows; i += kRowsOnTiles) {
                const int some = int(min_of(kRowsOnTiles, rows - i));
                const bool ends = k + lines == count;
                for (int j = 0; j < some && ends; ++j) ask_for_c(m + i + j, n, NV, part, rounds);
                const T *rows_of_a = a + i * row_of_a + k * depth, *lines_of_panel = panel + k * NV * W * depth;
                multiply_on_tiles<NV>(registers, some,
                                      {rows_of_a, row_of_a, lines_of_panel, lines, sums + i * NV, nullptr, k > 0},
                                      [](int) {});
                for (int64_t j = i; j < i + some && ends; ++j) finish_line<NV>(m + j, n, sums + j * NV, part, rounds);
            }
        }
    }

    // Adds the bias or the previous partial sum to a vector of sums, for column n of a row of c, and stores it.
    FASTITER_INLINE void finish(int64_t at, int64_t n, vec<T> sum, Part part, bool rounds) const {
        const int64_t left = g.N - n;
        if (!part.first)
            sum += load_up_to(g.c + at, left);
        else if (g.bias)
            sum += load_up_to(g.bias + n, left);
        if (rounds)
            put_up_to(g.rounded + at, sum, left, streams_rounded);
        else
            put_up_to(g.c + at, sum, left, streams_c);
    }

    // Rows [m0, m0 + rows) of c: adds the products of the chunk's `count` packed lines from chunk0 on, for the given
    // panels.
    void block_rows(TileRegisters& registers, T* packed, int64_t m0, int64_t rows, int64_t chunk0, int64_t count,
                    Range mine, Team team) const {
        for (int64_t k0 = 0; k0 < count; k0 += block) {
            const int64_t depth_of_block = min_of(block, count - k0);
            const Part part{chunk0 + k0 == 0 && !g.accumulate, chunk0 + k0 + depth_of_block >= K};
            prepare_a(m0, rows, chunk0 + k0, depth_of_block, packed);
            for (int64_t j = mine.begin; j < mine.end; ++j) {
                const int nv = vectors_of(j);
                if (has_to_stop(team, rows * depth_of_block * nv * W)) return;
                const T* panel = panel_of_b(j, count) + k0 * nv * W * depth;
                if constexpr (on_tiles<T>)
                    with_count<kPanelVectors>(nv, [&]<int NV>() {
                        multiply_block<NV>(registers, packed, rows, panel, depth_of_block, m0, j * kPanel, part);
                    });
                else
                    for_each_tile<kRows>(rows, [&](int64_t first, int tile_count) {
                        const TileOfA a = tile_of_a(packed, first, m0 + first, chunk0 + k0);
                        multiply(a, tile_count, panel, nv, depth_of_block, m0 + first, j * kPanel, part);
                    });
            }
        }
    }

    // For K = 0: c is the bias, zeros, or unchanged.
    void run_empty(Range rows) const {
        for (int64_t m = rows.begin; m < rows.end; ++m)
            for (int64_t n = 0; n < g.N; n += W)
                finish(g.c_m.at(m) + n, n, vec<T>{}, {!g.accumulate, true}, g.rounded != nullptr);
    }

    void run(Team team) const {
        // Sharing panels keeps each thread's part of b in its own cache; sharing rows avoids packing a row of a twice.
        const bool is_flat = on_tiles<T> ? g.M <= (in_rows ? g.N : kRowsOnTiles) : in_rows;
        const bool by_panel = is_flat && panels >= 2 * team.size;
        const Range mine = share(panels, team);
        const Range all = by_panel ? mine : Range{0, panels};
        const Range rows = by_panel ? Range{0, g.M} : share(g.M, team);
        TileRegisters registers;
        for (int64_t k0 = 0; k0 < K; k0 += chunk) {
            const int64_t count = min_of(chunk, round_up(K - k0, kLines));
            if (k0 > 0) wait(team.barriers[0], team.size); // all threads have read the previous chunk
            pack_b(mine, k0, count);
            wait(team.barriers[0], team.size);
            for (int64_t m = rows.begin; m < rows.end; m += kBlockM)
                block_rows(registers, a_of(team.id), m, min_of(kBlockM, rows.end - m), k0, count, all, team);
        }
    }
};

template <class T> size_t gemm_workspace(const Gemm<T>& g, int threads) {
    const MatrixProduct<T> product(g);
    return size_t(product.packed_b() + threads * product.packed_a()) * sizeof(T);
}

template <class T> void gemm(const Gemm<T>& g, Team team) {
    if (g.M == 0 || g.N == 0) return;
    const MatrixProduct<T> product(g);
    if (g.K == 0)
        product.run_empty(share(g.M, team));
    else
        product.run(team);
    stream_fence();
}

} // namespace fastiter::dense::FASTITER_LEVEL
