// Shared by the kernels of the diagonal cells: lines (one vector of units of one row, an independent recurrence), their
// distribution over threads, and the grouping of lines that advance together.
#pragma once
#include "core/cpu/tile.hpp"
#include "newton/cpu/cells.hpp"
#include "newton/cpu/kernels.hpp"

namespace fastiter::newton::FASTITER_LEVEL {

template <class T, class C> void para_forward(const ParaForward<T>& p, Team team);
template <class T, class C> size_t para_backward_workspace(const ParaShape& shape);
template <class T, class C> void para_backward(const ParaBackward<T>& p, Team team);
template <class T> int64_t newton_blocks(const ParaShape& shape);
template <class T, class C> size_t newton_workspace(const ParaForward<T>& p, int threads);
template <class T, class C> void newton(const ParaForward<T>& p, Team team);

struct Line {
    int64_t row = 0, unit = 0, length = 0; // unit: first unit of the vector
};

// Approximate number of operations of a step of a line
template <class T> constexpr int64_t kLineStep = 32 * lanes<T>;

// The lines of a call, numbered row by row, rows by decreasing length
template <class T> struct Lines {
    static constexpr int W = lanes<T>;
    const ParaShape& shape;
    const int64_t vectors = ceil_div(shape.D, W); // in a row

    Line at(int64_t i) const {
        const int64_t k = i / vectors, row = shape.order ? shape.order[k] : k;
        return {row, (i % vectors) * W, shape.lengths ? shape.lengths[row] : shape.T};
    }
    int64_t count() const { return shape.B * vectors; }

    // First line of thread `id`; the partition gives all threads the same number of steps.
    int64_t first_of(int id, int size) const {
        if (!shape.order || id == 0 || id == size) return count() * id / size;
        int64_t steps = 0;
        for (int64_t row = 0; row < shape.B; ++row) steps += shape.lengths[row];
        int64_t before = steps * vectors * id / size;
        for (int64_t k = 0; k < shape.B; ++k) {
            const int64_t length = shape.lengths[shape.order[k]];
            if (before < length * vectors) return k * vectors + before / length;
            before -= length * vectors;
        }
        return count();
    }

    bool is_whole(const Line& line) const { return shape.D - line.unit >= W; }
};

// Calls f<L, FULL>() for `count` <= MAX lines; FULL: every lane of every line is in range.
template <int MAX, class T, class F>
FASTITER_INLINE void with_lines(const Lines<T>& lines, const Line* line, int count, F&& f) {
    bool full = true;
    for (int l = 0; l < count; ++l) full = full && lines.is_whole(line[l]);
    with_count<MAX>(count, [&]<int L>() {
        if (full)
            f.template operator()<L, true>();
        else
            f.template operator()<L, false>();
    });
}

// Maximum lines per group; a group's lines alternate in time, so that what is read and written at one time is
// contiguous
constexpr int kGroup = 64;

// Calls f(lines, count) for groups of the thread's lines. A group is contiguous in memory at one step (one row, or
// several rows if time is the outermost dimension) and has at least `side` lines, from anywhere.
template <class T, class F>
FASTITER_INLINE void for_each_group(const Lines<T>& lines, const Steps<const T>& x, int side, Team team, F&& f) {
    auto magnitude = [](int64_t stride) { return stride < 0 ? -stride : stride; };
    const bool rows_together = magnitude(x.row) < magnitude(x.time), one_row = !rows_together && lines.vectors > side;
    const int64_t limit = rows_together || one_row ? kGroup : side, end = lines.first_of(team.id + 1, team.size);
    Line group[kGroup];
    for (int64_t i = lines.first_of(team.id, team.size); i < end;) {
        int64_t stop = min_of(end, i + limit);
        if (one_row) stop = min_of(stop, (i / lines.vectors + 1) * lines.vectors);
        for (int64_t k = i; k < stop; ++k) group[k - i] = lines.at(k);
        f(group, int(stop - i));
        i = stop;
    }
}

// Address of a line's first step, and its stride from step to step; negative in time with `reverse`.
template <class T> FASTITER_INLINE T* first_step(const Steps<T>& s, const ParaShape& shape, const Line& line) {
    const int64_t t = shape.reverse ? max_of(line.length - 1, 0) : 0;
    if (shape.starts) return s.data + shape.lines[line.row] * s.row + (shape.starts[line.row] + t) * s.time + line.unit;
    return s.data + line.row * s.row + t * s.time + line.unit;
}
template <class T> FASTITER_INLINE int64_t stride(const Steps<T>& s, const ParaShape& shape) {
    return shape.reverse ? -s.time : s.time;
}

// A vector of units from a line of D; FULL: all lanes are in range.
template <bool FULL, class T> FASTITER_INLINE vec<T> load_units(const T* p, int64_t count) {
    return FULL ? load(p) : load_up_to(p, count);
}
template <bool FULL, class T> FASTITER_INLINE void store_units(T* p, vec<T> v, int64_t count) {
    if (FULL)
        store(p, v);
    else
        store_up_to(p, v, count);
}

// Clears the steps past the end of a row.
template <class T> inline void clear_padding(const Steps<T>& s, int gates, const ParaShape& shape, const Line& line) {
    if (!s.data || shape.starts) return;
    const int64_t count = min_of(lanes<T>, shape.D - line.unit);
    for (int64_t t = line.length; t < shape.T; ++t)
        for (int g = 0; g < gates; ++g)
            store_up_to(s.data + line.row * s.row + t * s.time + g * s.gate + line.unit, vec<T>{}, count);
}

} // namespace fastiter::newton::FASTITER_LEVEL
