// One line step by step: the forward pass, and the fallback of Newton's method.
#pragma once
#include "newton/cpu/lines.hpp"

namespace fastiter::newton::FASTITER_LEVEL {

constexpr int kSide = 4;                // lines that advance together: enough to hide the latency of the activations
constexpr int64_t kTurn = 4;            // steps per turn before the next lines of the group
constexpr int64_t kTurnAlone = 1 << 12; // the same without other lines

template <class T, class C> struct ParaSteps {
    static constexpr int W = lanes<T>, G = C::gates, S = C::states, P = C::peepholes;

    const ParaForward<T>& p;
    const Team team;
    const ParaShape& shape = p.shape;
    const Lines<T> lines{p.shape};

    T* state(int k, const Line& line) const { return p.last[k] + line.row * shape.D + line.unit; }

    // The states are updated in `last`, which starts as the initial states.
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

    // Steps [begin, end) of at most kSide lines, up to each line's length; lines by decreasing length
    void run_lines(const Line* line, int count, int64_t begin, int64_t end) const;
    // Steps [begin, end) of L lines
    template <int L, bool FULL> void run(const Line* line, int64_t begin, int64_t end) const;

    void run_group(const Line* group, int count) const {
        const int64_t length = group[0].length, turn = count <= kSide ? kTurnAlone : kTurn;
        for (int64_t begin = 0; begin < length && !has_to_stop(team, count * turn * kLineStep<T>); begin += turn)
            for_each_tile<kSide>(count, [&](int64_t first, int some) {
                run_lines(group + first, some, begin, min_of(length, begin + turn));
            });
    }
};

} // namespace fastiter::newton::FASTITER_LEVEL
