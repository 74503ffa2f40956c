// Shared by the kernels of the delta rule: addresses of a sequence, blocks of columns, copies of the state.
#pragma once
#include "core/cpu/simd.hpp"
#include "delta/cpu/kernels.hpp"

namespace fastiter::delta::FASTITER_LEVEL {

template <class T> int64_t delta_chunk_blocks(const DeltaShape& s);
template <class T> size_t delta_chunk_workspace(const DeltaForward<T>& p, int threads);
template <class T> void delta_chunk(const DeltaForward<T>& p, Team team);
template <class T> int64_t delta_bwd_blocks(const DeltaShape& s);
template <class T> size_t delta_bwd_workspace(const DeltaBackward<T>& p, int threads);
template <class T> void delta_bwd(const DeltaBackward<T>& p, Team team);

// One head of one row
struct Sequence {
    int64_t line, start, length, state, head; // state: index among (row, head)
    const uint8_t* reset;
    int64_t reset_time;
    int64_t saved; // index of its first saved state

    Sequence(const DeltaShape& s, int64_t row, int64_t head_)
        : line(s.starts ? 0 : row), start(s.starts ? s.starts[row] : 0), length(s.lengths ? s.lengths[row] : s.T),
          state(row * s.N + head_), head(head_),
          reset(s.reset ? s.reset + line * s.reset_row + start * s.reset_time : nullptr), reset_time(s.reset_time),
          saved(s.starts ? start / s.period + row : row * ceil_div(s.T, s.period)) {}

    bool restarts(int64_t t) const { return reset && reset[t * reset_time]; }
    // Index of step t in contiguous arrays (row, time, ...)
    int64_t step(const DeltaShape& s, int64_t t) const { return line * s.T + start + t; }
    template <class T> T* at(const Steps<T>& x, int64_t t, int64_t factor) const {
        return x.data + line * x.row + (start + t) * x.time + factor * x.gate + head * x.head;
    }
};

// True if a pass reads and writes more than the caches hold, so that its results would be evicted before they are read.
template <class T> FASTITER_INLINE bool exceeds_caches(const DeltaShape& s) {
    constexpr int64_t kCacheBytes = 8 << 20;
    return (s.starts ? 1 : s.rows) * s.T * s.N * (1 + s.M) * (s.K + s.V) * int64_t(sizeof(T)) > kCacheBytes;
}

// Columns [begin, begin + count) of a state, stored as `vectors` whole vectors per row
struct Columns {
    int64_t begin, count, vectors;
};

// Splits V columns into blocks of at most `maximum` vectors, as even as possible, at vector boundaries.
template <class T> FASTITER_INLINE int64_t column_blocks(int64_t V, int64_t maximum) {
    return ceil_div(ceil_div(V, lanes<T>), maximum);
}
template <class T> FASTITER_INLINE Columns columns_of(int64_t V, int64_t maximum, int64_t block) {
    const int64_t vectors = ceil_div(V, lanes<T>), blocks = column_blocks<T>(V, maximum);
    const int64_t first = vectors * block / blocks, end = vectors * (block + 1) / blocks;
    return {first * lanes<T>, min_of(V, end * lanes<T>) - first * lanes<T>, end - first};
}

// Copy rows of a state (K, V), or steps of v, e and the like, to rows of whole vectors padded with zeros, and back. A
// null `from` reads as zeros; a null `to` writes nothing.
template <class T> inline void read_lines(const T* from, int64_t from_row, const Columns& c, int64_t lines_, T* to) {
    for (int64_t i = 0; i < lines_; ++i)
        for (int64_t v = 0; v < c.vectors; ++v)
            store(to + (i * c.vectors + v) * lanes<T>,
                  from ? load_up_to(from + i * from_row + c.begin + v * lanes<T>, c.count - v * lanes<T>) : vec<T>{});
}
template <class T> inline void write_lines(const T* from, const Columns& c, int64_t lines_, T* to, int64_t to_row) {
    if (!to) return;
    for (int64_t i = 0; i < lines_; ++i)
        for (int64_t v = 0; v < c.vectors; ++v)
            store_up_to(to + i * to_row + c.begin + v * lanes<T>, load(from + (i * c.vectors + v) * lanes<T>),
                        c.count - v * lanes<T>);
}
template <class T> inline void clear(T* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = T(0);
}

} // namespace fastiter::delta::FASTITER_LEVEL
