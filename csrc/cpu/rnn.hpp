// What the forward and the backward pass of the recurrences share: the plan, the rows of a thread, the scratch memory.
#pragma once
#include "rnn_cells.hpp"
#include "rnn_tile.hpp"

namespace fastiter::FASTITER_LEVEL {

// Vectors of units in a panel of the forward pass: cells with several gates fill a tile with one.
template <class C> constexpr int panel_units = C::gates == 1 ? 4 : 1;

// Where this thread stands in the plan: its heads, its group of rows, its share of each head's panels.
struct Seat {
    int head_group, row_group, panel_group;
    Seat(const RnnPlan& plan, int thread)
        : head_group(thread / (plan.rows * plan.panels)), row_group(thread / plan.panels % plan.rows),
          panel_group(thread % plan.panels) {}
    int barrier(const RnnPlan& plan) const { return head_group * plan.rows + row_group; }
    // One for all threads of the heads, which may be the only group of rows
    int head_barrier(const RnnPlan& plan) const {
        return plan.rows == 1 || plan.panels == 1 ? head_group * plan.rows : plan.heads * plan.rows + head_group;
    }
};

// How rows are shared by groups. Where all are of one length, each group has rows that follow each other. Ragged rows are dealt
// out, longest first, there and back: 0 1 1 0 0 1 .. for two groups, which then get equal work.
struct Deal {
    struct Place {
        int group;
        int64_t row; // of the group's
    };
    const RnnShape& shape;
    const int groups;

    Deal(const RnnShape& s, int groups_) : shape(s), groups(groups_) {}
    // In a round of a row for each group
    int64_t turn(int64_t round, int64_t group) const { return round & 1 ? groups - 1 - group : group; }
    // `position`: of a row among all, by decreasing length where they are ragged
    int64_t position_of(int group, int64_t row) const {
        return shape.order ? row * groups + turn(row, group) : share(shape.B, group, groups).begin + row;
    }
    Place place_of(int64_t position) const {
        if (shape.order) return {int(turn(position / groups, position % groups)), position / groups};
        const int group = int(ceil_div((position + 1) * groups, max_of(1, shape.B))) - 1;
        return {group, position - share(shape.B, group, groups).begin};
    }
    int64_t count(int group) const {
        const Range r = share(shape.B, group, groups);
        if (!shape.order) return r.end - r.begin;
        const int64_t rounds = shape.B / groups;
        return rounds + (turn(rounds, group) < shape.B % groups);
    }
};

// The rows of one group, longest first
struct Rows {
    // Free lines between the groups: a processor prefetches past the end of its own lines, and would take the next group's
    // away from the one that writes them.
    static constexpr int64_t kGap = 8;
    const RnnShape& shape;
    const Deal deal;
    const int group;
    // The position of the first row; the group's first line in scratch arrays
    const int64_t count, first, scratch;
    Rows(const RnnShape& s, int group_, int groups)
        : shape(s), deal(s, groups), group(group_), count(deal.count(group)), first(deal.position_of(group, 0)),
          scratch(line_of_group(s, group, groups)) {}
    int64_t position(int64_t i) const { return shape.order ? deal.position_of(group, i) : first + i; }
    int64_t row(int64_t i) const { return shape.order ? shape.order[position(i)] : first + i; }
    int64_t length(int64_t i) const { return shape.order ? shape.lengths[row(i)] : shape.T; }
    // How many of them have more than t steps
    int64_t active(int64_t t) const {
        if (!shape.order) return t < shape.T ? count : 0;
        int64_t low = 0, high = count;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (length(middle) > t)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
    static int64_t line_of_group(const RnnShape& s, int group, int groups) {
        return group * (ceil_div(s.B, groups) + kGap);
    }
    static int64_t scratch_lines(const RnnShape& s, int groups) { return line_of_group(s, groups, groups); }
};

template <class T> FASTITER_INLINE T* line_of(const Steps<T>& s, const RnnShape& shape, int64_t row, int64_t t) {
    if (shape.offsets) return s.data + (shape.offsets[t] + row) * s.row;
    return s.data + (shape.starts ? shape.starts[row] * s.time : row * s.row) + t * s.time;
}

// How far behind a line of step t that of the same row at step t + by is; 0 where there is no array, or no such packed step
template <class T> FASTITER_INLINE int64_t line_ahead(const Steps<T>& s, const RnnShape& shape, int64_t t, int64_t by) {
    if (!s.data) return 0;
    if (!shape.offsets) return by * s.time;
    return t + by < 0 || t + by >= shape.T ? 0 : (shape.offsets[t + by] - shape.offsets[t]) * s.row;
}

// Whether steps without a value have a place, which is then 0
inline bool has_padding(const RnnShape& shape) { return !shape.offsets && !shape.starts; }

// x in [-bound, bound]; a NaN stays
template <class T> FASTITER_INLINE vec<T> clip(vec<T> x, T bound) { return at_least<T>(at_most<T>(x, bound), -bound); }

// Whether an array with `gates` values a unit and step is larger than what caches keep until it is read again
template <class T> FASTITER_INLINE bool exceeds_caches(const RnnShape& s, int gates) {
    return s.B * s.T * s.N * s.D * gates * int64_t(sizeof(T)) > kCached;
}

// Hands out aligned pieces of the workspace, which may be of different threads: see Rows::kGap for why they lie apart. With
// data == nullptr it only measures.
struct Arena {
    static constexpr int64_t kApart = 512;
    char* data;
    int64_t used = 0;
    template <class T> T* take(int64_t count) {
        T* piece = data ? reinterpret_cast<T*>(data + used) : nullptr;
        used += round_up(count * int64_t(sizeof(T)), 64) + kApart;
        return piece;
    }
};

// From line to line of `count` numbers in scratch memory: whole lines of the cache, and a free one, as lines that are a power of
// two apart would fall into the same few sets of the first level.
template <class S> constexpr int64_t apart(int64_t count) {
    constexpr int64_t line = max_of(16, 64 / int64_t(sizeof(S)));
    return round_up(count, line) + line;
}

// As what is stored holds it
template <class S> FASTITER_INLINE vec<S> rounded(vec<S> x) {
    if constexpr (sizeof(S) == 2)
        return widen(narrow(x));
    else
        return x;
}

// A bound of what is stored, and whether there is one
template <class S> struct Bound {
    static constexpr double infinity = __builtin_inf();
    rnn_value<S> value;
    bool given;
    explicit Bound(double bound) : value(rounded<S>(vec<S>{} + rnn_value<S>(bound))[0]), given(bound < infinity) {}
};

// Sets lanes [begin, end) of a line to 0.
template <class T> inline void clear(T* line, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) line[u] = T{};
}

} // namespace fastiter::FASTITER_LEVEL
