#include "delta/cpu/tile.hpp"
#include "core/cpu/pack.hpp"
#include "core/cpu/tile.hpp"

namespace fastiter::delta::FASTITER_LEVEL {
namespace {

constexpr int kPanelVectors = 4;
// At least half of the registers hold sums, enough of them to hide the latency of the additions.
template <int NV> constexpr int kRows = NV >= 3 ? tile_rows<NV> : 6;

// acc[i] += sum over k < count of x[i][k] p[k]
template <class T, int R, int NV>
FASTITER_INLINE void add_products(Matrix<const T> x, Matrix<const T> p, int64_t count, vec<T> (&acc)[R][NV]) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < count; ++k) {
        vec<T> line[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) line[v] = load(p.data + k * p.row + v * lanes<T>);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const vec<T> xi = broadcast(x.data[i * x.row + k * x.column]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[i][v] = fma(xi, line[v], acc[i][v]);
        }
    }
}

template <class T, int R, int NV> void product_tile(const Product<T>& a, int64_t first, int64_t column) {
    constexpr int W = lanes<T>;
    vec<T> acc[R][NV] = {};
    if (a.from.data) {
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v)
                acc[i][v] = load(a.from.data + (first + i) * a.from.row + column + v * W) * broadcast(a.keep);
    }
    const Matrix<const T> x{a.x.data + first * a.x.row, a.x.row, a.x.column}, p{a.p.data + column, a.p.row, 1};
    int64_t terms[R];
    for (int i = 0; i < R; ++i) terms[i] = a.terms.of(first + i);
    add_products<T, R, NV>(x, p, terms[0], acc);
    for (int64_t k = terms[0]; k < terms[R - 1]; ++k)
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            if (k >= terms[i]) continue;
            const vec<T> xi = broadcast(x.data[i * x.row + k * x.column]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[i][v] = fma(xi, load(p.data + k * p.row + v * W), acc[i][v]);
        }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) store(a.c.data + (first + i) * a.c.row + column + v * W, acc[i][v]);
}

template <class T, int R, int NV> void substitution_tile(const Substitution<T>& a, int64_t first, int64_t column) {
    constexpr int W = lanes<T>;
    vec<T> acc[R][NV];
    T* const c = a.c.data + first * a.c.row + column;
    T* const solved = a.p.data + first * a.p.row + column;
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[i][v] = load(c + i * a.c.row + v * W);
    const Matrix<const T> x{a.x.data + first * a.x.row, a.x.row, a.x.column};
    add_products<T, R, NV>(x, {a.p.data + column, a.p.row, 1}, first, acc);
#pragma GCC unroll 8
    for (int k = 0; k < R; ++k) {
        const vec<T> scale = broadcast(a.scale.data[(first + k) * a.scale.row]);
        vec<T> line[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            store(c + k * a.c.row + v * W, acc[k][v]);
            line[v] = acc[k][v] * scale;
            store(solved + k * a.p.row + v * W, line[v]);
        }
#pragma GCC unroll 8
        for (int i = k + 1; i < R; ++i) {
            const vec<T> xi = broadcast(x.data[i * x.row + (first + k) * x.column]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[i][v] = fma(xi, line[v], acc[i][v]);
        }
    }
}

// Calls tile.operator()<rows, vectors>(first row, column) for tiles that cover the matrix, in ascending rows: full
// tiles first, then one smaller tile for the rest.
template <class T, class F> FASTITER_INLINE void for_each_tile_of(int64_t rows, int64_t vectors, F&& tile) {
    for (int64_t at = 0; at < vectors; at += kPanelVectors)
        with_count<kPanelVectors>(int(min_of(kPanelVectors, vectors - at)), [&]<int NV>() {
            constexpr int R = kRows<NV>;
            const int64_t column = at * lanes<T>, full = rows / R * R;
            for (int64_t first = 0; first < full; first += R) tile.template operator()<R, NV>(first, column);
            if (full == rows) return;
            with_count<R - 1>(int(rows - full), [&]<int REST>() { tile.template operator()<REST, NV>(full, column); });
        });
}

} // namespace

template <class T> void multiply(const Product<T>& a) {
    for_each_tile_of<T>(a.rows, a.vectors, [&]<int R, int NV>(int64_t first, int64_t column) {
        product_tile<T, R, NV>(a, first, column);
    });
}

template <class T> void substitute(const Substitution<T>& a) {
    for_each_tile_of<T>(a.rows, a.vectors, [&]<int R, int NV>(int64_t first, int64_t column) {
        substitution_tile<T, R, NV>(a, first, column);
    });
}

template <class T>
void transpose_lines(const T* x, int64_t x_row, int64_t rows, int64_t columns, T* out, int64_t out_row) {
    for (int64_t r = 0; r < rows; r += lanes<T>)
        pack_transposed(x + r * x_row, x_row, rows - r, columns, out + r, out_row);
}

template <class T>
void row_dots(const T* a, int64_t a_row, const T* b, int64_t b_row, int64_t rows, int64_t columns, T* out) {
    constexpr int W = lanes<T>;
    for (int64_t r = 0; r < rows; r += W) {
        vec<T> sums[W] = {};
        for (int i = 0; i < min_of(W, rows - r); ++i)
            for (int64_t c = 0; c < columns; c += W)
                sums[i] = fma(load(a + (r + i) * a_row + c), load_up_to(b + (r + i) * b_row + c, columns - c), sums[i]);
        transpose<T>(sums);
        for (int i = 1; i < W; ++i) sums[0] += sums[i];
        store(out + r, sums[0]);
    }
}

#define FASTITER_INSTANTIATE(T)                                                      \
    template void multiply(const Product<T>&);                                       \
    template void substitute(const Substitution<T>&);                                \
    template void transpose_lines(const T*, int64_t, int64_t, int64_t, T*, int64_t); \
    template void row_dots(const T*, int64_t, const T*, int64_t, int64_t, int64_t, T*);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::delta::FASTITER_LEVEL
