// A line step by step: the forward pass, and what Newton's method falls back to.
#pragma once
#include "para.hpp"

namespace fastiter::FASTITER_LEVEL {

constexpr int kSide = 4;     // lines side by side: as many as hide the latency of the activations
constexpr int64_t kTurn = 4; // steps that they go before the next lines of their group do

template <class T, class C> struct ParaSteps {
    static constexpr int W = lanes<T>, G = C::gates, S = C::states, P = C::peepholes;

    const ParaForward<T>& p;
    const ParaShape& shape = p.shape;
    const Lines<T> lines{p.shape};

    T* state(int k, const Line& line) const { return p.last[k] + line.row * shape.D + line.unit; }

    // The states live in `last`, which begins as the initial states.
    void enter(const Line& line) const {
        const int64_t count = shape.D - line.unit;
        for (int k = 0; k < S; ++k) {
            const T* first = p.first[k] ? p.first[k] + line.row * shape.D + line.unit : nullptr;
            store_up_to(state(k, line), first ? load_up_to(first, count) : vec<T>{}, count);
        }
    }

    void pad(const Line& line) const {
        for (int k = 0; k < S; ++k) clear_padding(p.states[k], 1, shape, line);
    }

    // Steps [begin, end) of L lines
    template <int L, bool FULL> void run(const Line* line, int64_t begin, int64_t end) const {
        const int64_t dx = stride(p.wx, shape), gate = p.wx.gate;
        const T* from[L];
        T* to[S][L];
        int64_t count[L];
        vec<T> s[L][S], a[L][G], peephole[L][P + 1];
#pragma GCC unroll 4
        for (int l = 0; l < L; ++l) {
            count[l] = shape.D - line[l].unit;
            from[l] = first_step(p.wx, shape, line[l]);
            for (int k = 0; k < S; ++k) {
                to[k][l] = p.states[k].data ? first_step(p.states[k], shape, line[l]) : nullptr;
                s[l][k] = load_units<FULL>(state(k, line[l]), count[l]);
            }
            for (int g = 0; g < G; ++g) a[l][g] = load_units<FULL>(p.a + g * shape.D + line[l].unit, count[l]);
            for (int g = 0; g < P; ++g) peephole[l][g] = load_units<FULL>(p.p + g * shape.D + line[l].unit, count[l]);
        }
        for (int64_t t = begin; t < end; ++t) {
            vec<T> keep[L][4];
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) {
                vec<T> x[G];
#pragma GCC unroll 4
                for (int g = 0; g < G; ++g) {
                    x[g] = load_units<FULL>(from[l] + t * dx + g * gate, count[l]);
                    __builtin_prefetch(from[l] + (t + kTurn) * dx + g * gate);
                }
                C::begin(x, a[l], peephole[l], s[l], keep[l]);
            }
#pragma GCC unroll 4
            for (int l = 0; l < L; ++l) {
                C::finish(s[l], keep[l]);
#pragma GCC unroll 4
                for (int k = 0; k < S; ++k)
                    if (to[k][l]) {
                        store_units<FULL>(to[k][l] + t * stride(p.states[k], shape), s[l][k], count[l]);
                        __builtin_prefetch(to[k][l] + (t + kTurn) * stride(p.states[k], shape), 1);
                    }
            }
        }
        for (int l = 0; l < L; ++l)
            for (int k = 0; k < S; ++k) store_units<FULL>(state(k, line[l]), s[l][k], count[l]);
    }

    // Steps [begin, end) of at most kSide lines, as far as each has them; lines by decreasing length
    void run_lines(const Line* line, int count, int64_t begin, int64_t end) const {
        for (; count > 0 && begin < end; --count) {
            const int64_t stop = min_of(end, line[count - 1].length);
            if (stop <= begin) continue;
            bool full = true;
            for (int l = 0; l < count; ++l) full = full && lines.is_whole(line[l]);
            with_count<kSide>(count, [&]<int L>() {
                if (full)
                    run<L, true>(line, begin, stop);
                else
                    run<L, false>(line, begin, stop);
            });
            begin = stop;
        }
    }

    void run_group(const Line* group, int count) const {
        const int64_t length = group[0].length, turn = count <= kSide ? length : kTurn;
        for (int64_t begin = 0; begin < length; begin += turn)
            for_each_tile<kSide>(count, [&](int64_t first, int some) {
                run_lines(group + first, some, begin, min_of(length, begin + turn));
            });
    }
};

} // namespace fastiter::FASTITER_LEVEL
