// Shared by the forward and backward passes of the recurrences: thread coordinates, the rows of a thread, scratch
// memory.
#pragma once
#include "rnn/cpu/cells.hpp"
#include "rnn/cpu/tile.hpp"

namespace fastiter::rnn::FASTITER_LEVEL {

// Vectors of units per panel in the forward pass, for a cell with this number of gates: up to four vectors of gates fill
// a tile.
constexpr int panel_units(int gates) { return max_of(1, 4 / gates); }

// This thread's coordinates in the plan: its group of heads, its group of rows, its share of each head's panels.
struct ThreadCoords {
    int head_group, row_group, panel_group;
    ThreadCoords(const RnnPlan& plan, int thread)
        : head_group(thread / (plan.rows * plan.panels)), row_group(thread / plan.panels % plan.rows),
          panel_group(thread % plan.panels) {}
    int barrier(const RnnPlan& plan) const { return head_group * plan.rows + row_group; }
    // A barrier for all threads of the group of heads, which may be a single group of rows
    int head_barrier(const RnnPlan& plan) const {
        return plan.rows == 1 || plan.panels == 1 ? head_group * plan.rows : plan.heads * plan.rows + head_group;
    }
};

// Partition of the rows into groups. If all rows have the same length, each group has consecutive rows. Ragged rows are
// dealt in zigzag order, longest first: 0 1 1 0 0 1 .. for two groups, which balances the work.
struct RowPartition {
    struct Place {
        int group;
        int64_t row; // index within the group
    };
    const RnnShape& shape;
    const int groups;

    RowPartition(const RnnShape& s, int groups_) : shape(s), groups(groups_) {}
    // The zigzag order: group `group`'s index in round `round`, in which each group gets one row
    int64_t turn(int64_t round, int64_t group) const { return round & 1 ? groups - 1 - group : group; }
    // `position`: index of a row in the batch, sorted by decreasing length if ragged
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
    // Padding lines between the groups: hardware prefetching past the end of one group's lines would steal cache lines
    // that the next group's thread writes.
    static constexpr int64_t kGap = 8;
    const RnnShape& shape;
    const RowPartition deal;
    const int group;
    // The position of the first row; the index of the group's first line in scratch arrays
    const int64_t count, first, scratch;
    Rows(const RnnShape& s, int group_, int groups)
        : shape(s), deal(s, groups), group(group_), count(deal.count(group)), first(deal.position_of(group, 0)),
          scratch(line_of_group(s, group, groups)) {}
    int64_t position(int64_t i) const { return shape.order ? deal.position_of(group, i) : first + i; }
    int64_t row(int64_t i) const { return shape.order ? shape.order[position(i)] : first + i; }
    int64_t length(int64_t i) const { return shape.order ? shape.lengths[row(i)] : shape.T; }
    // Number of rows with more than t steps
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

// Offset from a row's data at step t to its data at step t + by; 0 if the array is absent or the step does not exist.
template <class T> FASTITER_INLINE int64_t line_ahead(const Steps<T>& s, const RnnShape& shape, int64_t t, int64_t by) {
    if (!s.data) return 0;
    if (!shape.offsets) return by * s.time;
    return t + by < 0 || t + by >= shape.T ? 0 : (shape.offsets[t + by] - shape.offsets[t]) * s.row;
}

// Whether arrays contain padded steps, which are then 0
inline bool has_padding(const RnnShape& shape) { return !shape.offsets && !shape.starts; }

// x clamped to [-bound, bound]; NaN stays NaN.
template <class T> FASTITER_INLINE vec<T> clip(vec<T> x, T bound) { return at_least<T>(at_most<T>(x, bound), -bound); }

// Whether an array with `gates` values per unit and step exceeds the caches, so that it is evicted before it is read
// again
template <class T> FASTITER_INLINE bool exceeds_caches(const RnnShape& s, int gates) {
    return s.B * s.T * s.N * s.D * gates * int64_t(sizeof(T)) > kCached;
}

// Carves the workspace into aligned arrays, which may belong to different threads: see Rows::kGap for the gap between
// them. With data == nullptr it only measures.
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

// Row stride, in numbers, of a scratch array with rows of `count` numbers: whole cache lines plus one, as a stride of a
// power of two would map to few sets of the first-level cache.
template <class S> constexpr int64_t apart(int64_t count) {
    constexpr int64_t line = max_of(16, 64 / int64_t(sizeof(S)));
    return round_up(count, line) + line;
}

// Rounded to the precision of the storage type
template <class S> FASTITER_INLINE vec<S> rounded(vec<S> x) {
    if constexpr (sizeof(S) == 2)
        return widen(narrow(x));
    else
        return x;
}

// A bound, rounded to the storage type, and whether it is given
template <class S> struct Bound {
    static constexpr double infinity = __builtin_inf();
    accumulate_t<S> value;
    bool is_finite;
    explicit Bound(double bound)
        : value(rounded<S>(vec<S>{} + accumulate_t<S>(bound))[0]), is_finite(bound < infinity) {}
};

// Sets elements [begin, end) of a line to 0.
template <class T> inline void clear(T* line, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) line[u] = T{};
}

} // namespace fastiter::rnn::FASTITER_LEVEL
