// Groups in vectors. A tile is an array of vectors in a thread's workspace: either lane j of vector k is number k of
// the j-th of several groups (Across), or the tile holds one group, in order (Within). An algorithm that first reduces
// over the vectors of a tile and then calls the tile's own sum, largest or any_of works with both.
#pragma once
#include "core/cpu/simd.hpp"
#include "fixedpoint/cpu/prox.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

// Groups of up to this many vectors are processed side by side: with longer ones a tile would exceed the first-level
// cache.
constexpr int64_t kAcross = 6;

template <class T> FASTITER_INLINE bool is_across(const Groups<T>& g) { return g.size <= kAcross * lanes<T>; }

template <class T> struct Across {
    vec<T>* tile;
    int64_t steps;

    Across(const Groups<T>& g, void* memory) : tile(static_cast<vec<T>*>(memory)), steps(g.size) {}

    static int64_t blocks(const Groups<T>& g) { return ceil_div(g.outer * g.inner, lanes<T>); }
    static int64_t numbers(const Groups<T>& g) { return g.size * lanes<T>; }

    // The lanes of block b; lanes past the last group repeat it
    struct Places {
        int64_t at[lanes<T>];
        int count;
        bool together; // contiguous in memory
    };
    FASTITER_INLINE static Places places(const Groups<T>& g, int64_t b) {
        Places p;
        const int64_t all = g.outer * g.inner, first = b * lanes<T>;
        p.count = int(min_of(lanes<T>, all - first));
        // One division per block: one per lane took a fifth of the time of a projection in float32.
        int64_t row = g.inner == 1 ? first : first / g.inner, column = first - row * g.inner;
        for (int j = 0; j < lanes<T>; ++j) {
            p.at[j] = row * g.size * g.inner + column;
            if (j + 1 < p.count && ++column == g.inner) {
                column = 0;
                ++row;
            }
        }
        p.together = p.at[lanes<T> - 1] - p.at[0] == lanes<T> - 1 && g.inner > 1;
        return p;
    }

    FASTITER_INLINE void read(const Groups<T>& g, int64_t b, T) {
        const Places p = places(g, b);
        if (p.together) {
            for (int64_t k = 0; k < steps; ++k) tile[k] = load(g.y + p.at[0] + k * g.inner);
            return;
        }
        T* to = reinterpret_cast<T*>(tile);
        for (int j = 0; j < lanes<T>; ++j)
            for (int64_t k = 0; k < steps; ++k) to[k * lanes<T> + j] = g.y[p.at[j] + k * g.inner];
    }

    FASTITER_INLINE void write(const Groups<T>& g, int64_t b) const {
        const Places p = places(g, b);
        if (p.together && p.count == lanes<T>) {
            for (int64_t k = 0; k < steps; ++k) store(g.out + p.at[0] + k * g.inner, tile[k]);
            return;
        }
        const T* from = reinterpret_cast<const T*>(tile);
        for (int j = 0; j < p.count; ++j)
            for (int64_t k = 0; k < steps; ++k) g.out[p.at[j] + k * g.inner] = from[k * lanes<T> + j];
    }

    FASTITER_INLINE static vec<T> sum(vec<T> x) { return x; }
    FASTITER_INLINE static vec<T> largest(vec<T> x) { return x; }
    FASTITER_INLINE static mask<T> any_of(mask<T> x) { return x; }
};

template <class T> struct Within {
    vec<T>* tile;
    int64_t steps;

    Within(const Groups<T>& g, void* memory) : tile(static_cast<vec<T>*>(memory)), steps(ceil_div(g.size, lanes<T>)) {}

    static int64_t blocks(const Groups<T>& g) { return g.outer * g.inner; }
    static int64_t numbers(const Groups<T>& g) { return g.size; }

    FASTITER_INLINE static int64_t place(const Groups<T>& g, int64_t b) {
        const int64_t row = b / g.inner;
        return row * g.size * g.inner + (b - row * g.inner);
    }

    // pad: the value of lanes past the end
    FASTITER_INLINE void read(const Groups<T>& g, int64_t b, T pad) {
        const T* from = g.y + place(g, b);
        T* to = reinterpret_cast<T*>(tile);
        if (g.inner == 1)
            for (int64_t k = 0; k < steps; ++k) tile[k] = load_up_to(from + k * lanes<T>, g.size - k * lanes<T>);
        else
            for (int64_t k = 0; k < g.size; ++k) to[k] = from[k * g.inner];
        for (int64_t k = g.size; k < steps * lanes<T>; ++k) to[k] = pad;
    }

    FASTITER_INLINE void write(const Groups<T>& g, int64_t b) const {
        T* to = g.out + place(g, b);
        const T* from = reinterpret_cast<const T*>(tile);
        if (g.inner == 1)
            for (int64_t k = 0; k < steps; ++k) store_up_to(to + k * lanes<T>, tile[k], g.size - k * lanes<T>);
        else
            for (int64_t k = 0; k < g.size; ++k) to[k * g.inner] = from[k];
    }

    FASTITER_INLINE static vec<T> sum(vec<T> x) {
        T s = x[0];
        for (int j = 1; j < lanes<T>; ++j) s += x[j];
        return broadcast(s);
    }
    FASTITER_INLINE static vec<T> largest(vec<T> x) {
        T m = x[0];
        for (int j = 1; j < lanes<T>; ++j) m = x[j] > m ? x[j] : m;
        return broadcast(m);
    }
    FASTITER_INLINE static mask<T> any_of(mask<T> x) { return any<T>(x) ? ~mask<T>{} : mask<T>{}; }
};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
