// One time step of a stack of layers with prepacked weights. Every sum has the order of dense/cpu/matrix_product.hpp
// and forward.hpp, so that results are bitwise equal to a run over all steps.
#pragma once
#include "dense/cpu/gemm.hpp"
#include "rnn/cpu/stream_kernels.hpp"
#include "rnn/cpu/table.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

using dense::FASTITER_LEVEL::block_of_sum;

// acc = sum over k of x[i][k] panel[k][v], in the blocks of the matrix product, with the bias added after the first
// block
template <class T, int ROWS, int NV, int PANELS, class Bias>
FASTITER_INLINE void product_in_blocks(const T* x, int64_t x_row, const T* panel, int64_t stride, int64_t K, Bias bias,
                                       vec<T> (&acc)[ROWS][PANELS * NV]) {
    const int64_t block = block_of_sum(K);
    int64_t k = 0;
    do {
        vec<T> part[ROWS][PANELS * NV] = {};
        multiply_add<T, ROWS, NV, PANELS>(x + k, x_row, 1, panel + k * NV * lanes<T>, stride, min_of(block, K - k),
                                          part);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
            for (int v = 0; v < PANELS * NV; ++v) acc[i][v] = k == 0 ? bias(part[i][v], v) : part[i][v] + acc[i][v];
        k += block;
    } while (k < K);
}

template <class T, class C> struct StepOfLayer {
    static constexpr int W = lanes<T>, G = C::gates, states = C::states, U = panel_units(G), R = tile_rows<G * U>;
    static constexpr int64_t kPanelUnits = U * W;

    const StepStack<T>& p;
    const StepLayer<T>& layer;
    const T* x = nullptr;
    int64_t x_row = 0;
    T* y = nullptr; // second copy of h, or null
    const int64_t N = p.N, D = layer.width, I = layer.inputs, panels = ceil_div(D, kPanelUnits);
    const T* before = layer.h[p.turn & 1];
    T* after = layer.h[~p.turn & 1];
    const Bound<T> bound{p.clip_state};

    int64_t panel_size() const { return (I + D) * G * kPanelUnits; }
    int units_of(int64_t panel) const { return int(min_of(U, ceil_div(D - panel * kPanelUnits, W))); }

    void pack(const T* w_ih, const T* r) const {
        for (int64_t n = 0; n < N; ++n)
            for (int64_t j = 0; j < panels; ++j) {
                const int units = units_of(j), nv = units * G;
                T* panel = layer.panels + (n * panels + j) * panel_size();
                for (int u = 0; u < units; ++u)
                    for (int g = 0; g < G; ++g) {
                        const int64_t d = j * kPanelUnits + u * W, count = min_of(W, D - d);
                        const int64_t line = (g * N + n) * D + d;
                        T* out = panel + (u * G + g) * W;
                        pack_transposed(w_ih + line * I, I, count, I, out, nv * W);
                        pack_transposed(r + line * D, D, count, D, out + I * nv * W, nv * W);
                    }
            }
    }

    FASTITER_INLINE vec<T> of_gate(const T* values, int64_t n, int g, int64_t d) const {
        return load_up_to(values + (g * N + n) * D + d, D - d);
    }

    // Rows [first, first + ROWS) times PANELS panels of head n, each with UNITS vectors of units
    template <int ROWS, int UNITS, int PANELS> void tile(int64_t n, int64_t first, int64_t panel) const {
        constexpr int V = PANELS * UNITS, NV = UNITS * G;
        const int64_t unit = panel * kPanelUnits;
        const T* lines = layer.panels + (n * panels + panel) * panel_size();
        vec<T> gates[ROWS][V * G] = {}, products[ROWS][V * G];
        product_in_blocks<T, ROWS, NV, PANELS>(
            x + first * x_row, x_row, lines, panel_size(), I,
            [&](vec<T> sum, int v) { return layer.b_x ? sum + of_gate(layer.b_x, n, v % G, unit + v / G * W) : sum; },
            gates);
        for (int v = 0; v < V * G; ++v) {
            const vec<T> b = layer.b_h ? of_gate(layer.b_h, n, v % G, unit + v / G * W) : vec<T>{};
#pragma GCC unroll 12
            for (int i = 0; i < ROWS; ++i) products[i][v] = b;
        }
        multiply_add<T, ROWS, NV, PANELS>(before + (first * N + n) * D, N * D, 1, lines + I * NV * W, panel_size(), D,
                                          products);
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < V; ++v) cell(&gates[i][v * G], &products[i][v * G], first + i, n, unit + v * W);
    }

    FASTITER_INLINE void cell(vec<T>* gates, const vec<T>* products, int64_t row, int64_t n, int64_t d) const {
        const int64_t at = (row * N + n) * D + d, left = D - d;
        vec<T> state[states], keep[4];
        if (layer.to_first)
            for (int g = 0; g < G; ++g) gates[g] += of_gate(layer.to_first + row * G * N * D, n, g, d);
        if (C::reads_h) state[0] = load_up_to(before + at, left);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) state[k] = load_up_to(layer.others[k - 1] + at, left);
        C::begin(gates, products, state, keep);
        C::finish(state, keep);
        if (bound.is_finite) state[0] = clip<T>(state[0], bound.value);
        store_up_to(after + at, state[0], left);
        if (y) store_up_to(y + at, state[0], left);
#pragma GCC unroll 4
        for (int k = 1; k < states; ++k) store_up_to(layer.others[k - 1] + at, state[k], left);
    }

    // Panels `mine` of head n. A single row processes several panels at once: enough independent sums to hide the
    // latency of one.
    void head(int64_t n, Range mine) const {
        constexpr int P = panels_of_one_row<T>(G * U);
        if (p.B > 1)
            return zigzag(mine, p.turn, [&](int64_t j) {
                for_each_tile<R>(p.B, [&](int64_t first, int count) {
                    with_count<U>(units_of(j), [&]<int UNITS>() {
                        with_count<R>(count, [&]<int ROWS>() { tile<ROWS, UNITS, 1>(n, first, j); });
                    });
                });
            });
        zigzag_in_groups(P, mine, D / kPanelUnits, p.turn, [&](int64_t j, int some) {
            if (some == P) return tile<1, U, P>(n, 0, j);
            with_count<U>(units_of(j), [&]<int UNITS>() { tile<1, UNITS, 1>(n, 0, j); });
        });
    }

    void run(Team team) const {
        const Range mine = share(N * panels, team);
        zigzag({mine.begin / panels, ceil_div(mine.end, panels)}, p.turn, [&](int64_t n) {
            head(n, {max_of(0, mine.begin - n * panels), min_of(panels, mine.end - n * panels)});
        });
    }
};

// y (B, P) = h W_hr^T, in panels of kVectors vectors
template <class T> struct Projection {
    static constexpr int W = lanes<T>, kVectors = 4, R = tile_rows<kVectors>;
    static constexpr int64_t kPanel = kVectors * W;

    const StepLayer<T>& layer;
    const int64_t D = layer.width, P = layer.projected, panels = ceil_div(P, kPanel);

    int vectors_of(int64_t panel) const { return int(min_of(kVectors, ceil_div(P - panel * kPanel, W))); }

    void pack(const T* w_hr) const {
        for (int64_t j = 0; j < panels; ++j)
            for (int v = 0, nv = vectors_of(j); v < nv; ++v) {
                const int64_t line = j * kPanel + v * W;
                pack_transposed(w_hr + line * D, D, min_of(W, P - line), D, layer.projection + j * kPanel * D + v * W,
                                nv * W);
            }
    }

    template <int ROWS, int NV> void tile(const T* h, int64_t first, int64_t panel, T* y) const {
        vec<T> acc[ROWS][NV] = {};
        product_in_blocks<T, ROWS, NV, 1>(
            h + first * D, D, layer.projection + panel * kPanel * D, 0, D, [](vec<T> sum, int) { return sum; }, acc);
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < NV; ++v) {
                const int64_t line = panel * kPanel + v * W, at = (first + i) * P + line;
                store_up_to(layer.projected_h + at, acc[i][v], P - line);
                if (y) store_up_to(y + at, acc[i][v], P - line);
            }
    }

    void run(const T* h, int64_t B, T* y, Team team) const {
        const Range mine = share(panels, team);
        for (int64_t j = mine.begin; j < mine.end; ++j)
            for_each_tile<R>(B, [&](int64_t first, int count) {
                with_count<kVectors>(vectors_of(j), [&]<int NV>() {
                    with_count<R>(count, [&]<int ROWS>() { tile<ROWS, NV>(h, first, j, y); });
                });
            });
    }
};

template <class T> int64_t step_panels(const StepStack<T>& p, const StepLayer<T>& layer) {
    return with_cell<T>(p.cell, [&]<class C>() {
        const StepOfLayer<T, C> step{p, layer};
        return p.N * step.panels * step.panel_size();
    });
}

template <class T> int64_t step_projection(const StepLayer<T>& layer) {
    return Projection<T>{layer}.panels * Projection<T>::kPanel * layer.width;
}

template <class T>
void step_pack(const StepStack<T>& p, const StepLayer<T>& layer, const T* w_ih, const T* r, const T* w_hr) {
    with_cell<T>(p.cell, [&]<class C>() { StepOfLayer<T, C>{p, layer}.pack(w_ih, r); });
    if (layer.projected) Projection<T>{layer}.pack(w_hr);
}

template <class T> void step_run(const StepStack<T>& p, Team team) {
    const T* x = p.x;
    int64_t x_row = p.x_row;
    for (int64_t i = 0; i < p.count; ++i) {
        const StepLayer<T>& layer = p.layers[i];
        const bool is_last = i + 1 == p.count;
        T* y = is_last ? p.y : nullptr;
        with_cell<T>(
            p.cell, [&]<class C>() { StepOfLayer<T, C>{p, layer, x, x_row, layer.projected ? nullptr : y}.run(team); });
        const T* h = layer.h[~p.turn & 1];
        if (layer.projected) {
            wait(team.barriers[0], team.size);
            Projection<T>{layer}.run(h, p.B, y, team);
        }
        if (!is_last) wait(team.barriers[0], team.size);
        x = layer.projected ? layer.projected_h : h;
        x_row = layer.projected ? layer.projected : p.N * layer.width;
    }
}

template <class T>
constexpr StepKernels<T> step_kernels_for = {step_panels<T>, step_projection<T>, step_pack<T>, step_run<T>};

} // namespace fastiter::rnn::FASTITER_LEVEL
