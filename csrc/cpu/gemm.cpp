// c = a b + bias: packed panels of b stay in the outer caches, blocks of a in the second level, tiles of c in registers.
#include "gemm.hpp"
#include "pack.hpp"
#include "tile.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

constexpr int kPanelVectors = 4;
constexpr int64_t kBlockM = 168;          // rows of a block: the block of a fits the second level
constexpr int64_t kPackedBytes = 8 << 20; // of b at a time
template <class T> constexpr int kPanel = kPanelVectors * lanes<T>;
// Numbers from k to k of a packed block of a: an odd count of lines of a cache, so that a tile's are in all of its sets
template <class T> constexpr int64_t kLineOfA = round_up(kBlockM, 64 / int64_t(sizeof(T)));
constexpr int kRows = tile_rows<kPanelVectors>;

// Rows of a whose k lie next to each other are read where they are; others are packed.
template <class T> bool reads_a_in_place(const Gemm<T>& g) {
    return g.a_k.inner_stride == 1 && g.a_k.is_regular(g.K) && g.a_m.is_regular(g.M);
}

// b is packed a chunk of several blocks of the sum at a time; where a is packed as well, a chunk is one block, so that a long a
// is read once, line after line.
template <class T> struct Blocks {
    int64_t block, chunk, panels;
    explicit Blocks(const Gemm<T>& g) {
        block = block_of_sum(g.K);
        panels = ceil_div(g.N, kPanel<T>);
        const int64_t fits = kPackedBytes / max_of(1, panels * kPanel<T> * int64_t(sizeof(T)));
        chunk = reads_a_in_place(g) ? max_of(1, min_of(ceil_div(g.K, block), fits / block)) * block : block;
    }
    int64_t packed_b() const { return chunk * panels * kPanel<T>; }
    int64_t packed_a() const { return round_up(block * kLineOfA<T>, 64); }
};

template <class T> int vectors_of(const Gemm<T>& g, int64_t panel) {
    return int(min_of(kPanelVectors, ceil_div(g.N - panel * kPanel<T>, lanes<T>)));
}

// One panel, rows k0..k0+K of b
template <class T> void pack_b(const Gemm<T>& g, int64_t panel, int64_t k0, int64_t K, T* out) {
    constexpr int W = lanes<T>;
    const int nv = vectors_of(g, panel);
    const int64_t n = panel * kPanel<T>;
    if (g.b_k.inner_stride == 1 && g.b_k.is_regular(g.K)) {
        for (int v = 0; v < nv; ++v)
            pack_transposed(g.b + g.b_n.at(n + v * W) + k0, g.b_n.inner_stride, g.N - n - v * W, K, out + v * W,
                            nv * W);
        return;
    }
    for (int64_t k = 0; k < K; ++k) {
        const T* line = g.b + g.b_k.at(k0 + k) + g.b_n.at(n);
        for (int v = 0; v < nv; ++v) pack_line(line + v * W, g.N - n - v * W, out + (k * nv + v) * W);
    }
}

// Rows m0.. of a, as lines [k][row], run by run of rows that lie next to each other.
template <class T> void pack_a(const Gemm<T>& g, int64_t m0, int64_t count, int64_t k0, int64_t K, T* out) {
    struct Run {
        int64_t a, length;
    } runs[kBlockM];
    int run_count = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t a = g.a_m.at(m0 + i);
        if (i > 0 && a == runs[run_count - 1].a + runs[run_count - 1].length)
            ++runs[run_count - 1].length;
        else
            runs[run_count++] = {a, 1};
    }
    for (int64_t k = 0; k < K; ++k) {
        const T* line = g.a + g.a_k.at(k0 + k);
        T* to = out + k * kLineOfA<T>;
        for (int r = 0; r < run_count; to += runs[r++].length)
            for (int64_t i = 0; i < runs[r].length; i += lanes<T>)
                store_up_to(to + i, load_up_to(line + runs[r].a + i, runs[r].length - i), runs[r].length - i);
    }
}

template <class T, int R, int NV>
void tile(const Gemm<T>& g, const T* a, int64_t a_row, int64_t a_k, const T* panel, int64_t K, int64_t m, int64_t n,
          bool first) {
    constexpr int W = lanes<T>;
    vec<T> acc[R][NV] = {};
    multiply_add<T, R, NV, 1>(a, a_row, a_k, panel, 0, K, acc);
#pragma GCC unroll 12
    for (int i = 0; i < R; ++i) {
        T* c = g.c + g.c_m.at(m + i) + n;
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            int64_t count = g.N - n - v * W;
            if (!first)
                acc[i][v] += load_up_to(c + v * W, count);
            else if (g.bias)
                acc[i][v] += load_up_to(g.bias + n + v * W, count);
            store_up_to(c + v * W, acc[i][v], count);
        }
    }
}

template <class T> struct Workspace {
    T* b;
    T* a;
    Workspace(const Gemm<T>& g, const Blocks<T>& blocks, int thread)
        : b(static_cast<T*>(g.workspace)), a(b + blocks.packed_b() + thread * blocks.packed_a()) {}
};

// Rows [m0, m0 + count) of c, the k of one packed chunk, the given panels
template <class T>
void block_rows(const Gemm<T>& g, const Blocks<T>& blocks, const Workspace<T>& w, int64_t m0, int64_t count,
                int64_t chunk0, int64_t chunk, Range panels, bool direct) {
    for (int64_t k0 = 0; k0 < chunk; k0 += blocks.block) {
        const int64_t K = min_of(blocks.block, chunk - k0);
        const bool starts = chunk0 + k0 == 0 && !g.accumulate;
        if (!direct) pack_a(g, m0, count, chunk0 + k0, K, w.a);
        for (int64_t j = panels.begin; j < panels.end; ++j) {
            const int nv = vectors_of(g, j);
            const T* panel = w.b + j * kPanel<T> * chunk + k0 * nv * lanes<T>;
            for_each_tile<kRows>(count, [&](int64_t first, int rows) {
                const T* a = direct ? g.a + g.a_m.at(m0 + first) + chunk0 + k0 : w.a + first;
                const int64_t a_row = direct ? g.a_m.inner_stride : 1, a_k = direct ? 1 : kLineOfA<T>;
                with_count<kPanelVectors>(nv, [&]<int NV>() {
                    with_count<kRows>(rows, [&]<int R>() {
                        tile<T, R, NV>(g, a, a_row, a_k, panel, K, m0 + first, j * kPanel<T>, starts);
                    });
                });
            });
        }
    }
}

template <class T> void clear(const Gemm<T>& g, Range rows) {
    for (int64_t m = rows.begin; m < rows.end; ++m)
        for (int64_t n = 0; n < g.N; ++n) g.c[g.c_m.at(m) + n] = g.bias ? g.bias[n] : T(0);
}

} // namespace

template <class T> size_t gemm_workspace(const Gemm<T>& g, int threads) {
    Blocks<T> blocks(g);
    return (blocks.packed_b() + threads * blocks.packed_a()) * sizeof(T);
}

template <class T> void gemm(const Gemm<T>& g, Team team) {
    if (g.M == 0 || g.N == 0) return;
    if (g.K == 0 && g.accumulate) return;
    if (g.K == 0) return clear(g, share(g.M, team.id, team.size));
    const Blocks<T> blocks(g);
    const Workspace<T> w(g, blocks, team.id);
    const bool direct = reads_a_in_place(g);
    // Sharing panels keeps each thread's half of b in its own cache; sharing rows packs no row of a twice.
    const bool by_panel = direct && blocks.panels >= 2 * team.size;
    const Range panels = by_panel ? share(blocks.panels, team.id, team.size) : Range{0, blocks.panels};
    const Range rows = by_panel ? Range{0, g.M} : share(g.M, team.id, team.size);
    for (int64_t k0 = 0; k0 < g.K; k0 += blocks.chunk) {
        const int64_t K = min_of(blocks.chunk, g.K - k0);
        if (k0 > 0) wait(team.barriers[0], team.size); // everybody has read the chunk before
        Range mine = share(blocks.panels, team.id, team.size);
        for (int64_t j = mine.begin; j < mine.end; ++j) pack_b(g, j, k0, K, w.b + j * kPanel<T> * K);
        wait(team.barriers[0], team.size);
        for (int64_t m = rows.begin; m < rows.end; m += kBlockM)
            block_rows(g, blocks, w, m, min_of(kBlockM, rows.end - m), k0, K, panels, direct);
    }
}

// Each thread sums its own columns over all rows in order: the result does not depend on the number of threads.
template <class T> void column_sums(const T* x, int64_t x_m, int64_t M, int64_t N, T* out, Team team) {
    constexpr int W = lanes<T>, V = 4;
    Range mine = share(ceil_div(N, V * W), team.id, team.size);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
        vec<T> sum[V] = {};
        const int64_t n = j * V * W;
        for (int64_t m = 0; m < M; ++m)
            for (int v = 0; v < V; ++v)
                if (n + v * W < N) sum[v] += load_up_to(x + m * x_m + n + v * W, N - n - v * W);
        for (int v = 0; v < V; ++v)
            if (n + v * W < N) store_up_to(out + n + v * W, sum[v], N - n - v * W);
    }
}

template size_t gemm_workspace(const Gemm<float>&, int);
template size_t gemm_workspace(const Gemm<double>&, int);
template void gemm(const Gemm<float>&, Team);
template void gemm(const Gemm<double>&, Team);
template void column_sums(const float*, int64_t, int64_t, int64_t, float*, Team);
template void column_sums(const double*, int64_t, int64_t, int64_t, double*, Team);

} // namespace fastiter::FASTITER_LEVEL
