// The good Broyden method: two passes over the updates of H, one for the inner products with them, one to combine them.
#include "fixedpoint/cpu/sums.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

// Where the update of a row is stored, and the number of updates including it; at = -1 before the second iterate
struct Place {
    int64_t slot, at, updates;
};
template <class T> FASTITER_INLINE Place place_of(const BroydenStep<T>& p, int64_t row) {
    const int64_t slot = p.slot[row];
    const int64_t before = p.restart && p.restart[row] ? -1 : p.pushed[slot];
    if (before < 0) return {slot, -1, min_of(-1 - before, p.m)};
    return {slot, before % p.m, min_of(before + 1, p.m)};
}

template <class T> FASTITER_INLINE int64_t sums_of(const BroydenStep<T>& p) { return 3 * p.m + 4; }

// Sums of one chunk: u.s, v.y and v.r for each update, then v.y and v.r for the new one
template <class T> FASTITER_INLINE double* sums(const BroydenStep<T>& p, int64_t row, int64_t chunk) {
    return p.workspace + (row * (chunks_of(p.n) + 1) + chunk) * sums_of(p);
}

template <class T> FASTITER_INLINE T* history(T* from, const BroydenStep<T>& p, int64_t slot, int64_t i) {
    return from + (slot * p.m + i) * p.n;
}

// s, y and r of one chunk
template <class T> struct Changes {
    T s[kChunk], y[kChunk], r[kChunk];

    Changes(const BroydenStep<T>& p, int64_t row, int64_t slot, int64_t first, int64_t count) {
        const T *x = p.x + row * p.n + first, *f = p.f + row * p.n + first;
        const T *last_x = p.last_x + slot * p.n + first, *last_r = p.last_r + slot * p.n + first;
        for (int64_t j = 0; j < count; j += lanes<T>) {
            const vec<T> at = load_up_to(x + j, count - j), now = load_up_to(f + j, count - j) - at;
            store_up_to(r + j, now, count - j);
            store_up_to(s + j, at - load_up_to(last_x + j, count - j), count - j);
            store_up_to(y + j, now - load_up_to(last_r + j, count - j), count - j);
        }
    }
};

template <class T>
void old_products(const BroydenStep<T>& p, int64_t row, int64_t chunk, int64_t first, int64_t count) {
    const Place to = place_of(p, row);
    if (to.updates == 0) return;
    const Changes<T> now(p, row, to.slot, first, count);
    double* out = sums(p, row, chunk);
    for (int64_t i = 0; i < to.updates; ++i, out += 3) {
        if (i == to.at) continue;
        out[0] = product<T>(history(p.u, p, to.slot, i) + first, now.s, count);
        const Pair with_v = products<T>(history(p.v, p, to.slot, i) + first, now.y, now.r, count);
        out[1] = with_v.first;
        out[2] = with_v.second;
    }
}

// Adds up the sums [from, from + numbers) of all chunks in the first chunk.
template <class T> FASTITER_INLINE void add_up(const BroydenStep<T>& p, int64_t row, int64_t from, int64_t numbers) {
    double* total = sums(p, row, 0) + from;
    for (int64_t c = 1; c < chunks_of(p.n); ++c)
        for (int64_t k = 0; k < numbers; ++k) total[k] += sums(p, row, c)[from + k];
}

// Writes the new v, and s - H y in place of the new u.
template <class T> void new_update(const BroydenStep<T>& p, int64_t row, int64_t chunk, int64_t first, int64_t count) {
    const Place to = place_of(p, row);
    if (to.at < 0) return;
    const Changes<T> now(p, row, to.slot, first, count);
    const double* c = sums(p, row, 0);
    T *u = history(p.u, p, to.slot, 0) + first, *v = history(p.v, p, to.slot, 0) + first;
    const vec<T> beta = broadcast(T(p.beta));
    for (int64_t j = 0; j < count; j += lanes<T>) {
        const int64_t left = count - j;
        const vec<T> s = load_up_to(now.s + j, left);
        vec<T> new_v = -beta * s, new_u = fma(beta, load_up_to(now.y + j, left), s);
        for (int64_t i = 0; i < to.updates; ++i) {
            if (i == to.at) continue;
            new_v = fma(load_up_to(v + i * p.n + j, left), T(c[3 * i]), new_v);
            new_u = fma(load_up_to(u + i * p.n + j, left), T(-c[3 * i + 1]), new_u);
        }
        store_up_to(v + to.at * p.n + j, new_v, left);
        store_up_to(u + to.at * p.n + j, new_u, left);
    }
    const Pair pair = products<T>(v + to.at * p.n, now.y, now.r, count);
    double* out = sums(p, row, chunk) + 3 * p.m;
    out[0] = pair.first;
    out[1] = pair.second;
    out[2] = product<T>(now.y, now.y, count);
    out[3] = product<T>(v + to.at * p.n, v + to.at * p.n, count);
}

// The factor of the new u; 0: the update is skipped
template <class T> FASTITER_INLINE double factor(const BroydenStep<T>& p, int64_t row) {
    const double* c = sums(p, row, 0) + 3 * p.m;
    constexpr double kSmallest = sizeof(T) == 4 ? 0x1p-20 : 0x1p-48; // smallest cosine between v and y
    const double inverse = 1 / c[0];
    const bool keeps = c[0] * c[0] > kSmallest * kSmallest * c[2] * c[3] && inverse * 0 == 0;
    return keeps ? inverse : 0;
}

template <class T> void move(const BroydenStep<T>& p, int64_t row, int64_t first, int64_t count) {
    const Place to = place_of(p, row);
    const T *x = p.x + row * p.n + first, *f = p.f + row * p.n + first;
    T *last_x = p.last_x + to.slot * p.n + first, *last_r = p.last_r + to.slot * p.n + first;
    T *u = history(p.u, p, to.slot, 0) + first, *next = p.next + row * p.n + first;
    const double* c = sums(p, row, 0);
    const double scale = to.at < 0 ? 0 : factor(p, row);
    const vec<T> beta = broadcast(T(p.beta));
    for (int64_t j = 0; j < count; j += lanes<T>) {
        const int64_t left = count - j;
        const vec<T> at = load_up_to(x + j, left), r = load_up_to(f + j, left) - at;
        vec<T> sum = fma(beta, r, at);
        for (int64_t i = 0; i < to.updates; ++i) {
            if (i == to.at) continue;
            sum = fma(load_up_to(u + i * p.n + j, left), T(-c[3 * i + 2]), sum);
        }
        if (to.at >= 0) {
            const vec<T> newest = scale == 0 ? vec<T>{} : load_up_to(u + to.at * p.n + j, left) * T(scale);
            store_up_to(u + to.at * p.n + j, newest, left);
            sum = fma(newest, T(scale == 0 ? 0 : -c[3 * p.m + 1]), sum);
        }
        store_up_to(next + j, sum, left);
        store_up_to(last_x + j, at, left);
        store_up_to(last_r + j, r, left);
    }
}

// A skipped update keeps its place, with u = 0.
template <class T> FASTITER_INLINE void count_row(const BroydenStep<T>& p, int64_t row) {
    int64_t& pushed = p.pushed[p.slot[row]];
    const int64_t before = p.restart && p.restart[row] ? -1 : pushed;
    pushed = before < 0 ? -1 - before : before + 1;
}

template <class T> void broyden(const BroydenStep<T>& p, Team team) {
    const int64_t chunks = chunks_of(p.n), m = p.m;
    if (chunks == 1) {
        each_chunk(p.rows, p.n, team, [&](int64_t row, int64_t chunk, int64_t first, int64_t count) {
            old_products(p, row, chunk, first, count);
            new_update(p, row, chunk, first, count);
            move(p, row, first, count);
            count_row(p, row);
        });
        return;
    }
    auto in_rows = [&](auto f) {
        wait(team.barriers[0], team.size);
        for (int64_t row = team.id; row < p.rows; row += team.size) f(row);
        wait(team.barriers[0], team.size);
    };
    each_chunk(p.rows, p.n, team, [&](int64_t row, int64_t chunk, int64_t first, int64_t count) {
        old_products(p, row, chunk, first, count);
    });
    in_rows([&](int64_t row) { add_up(p, row, 0, 3 * m); });
    each_chunk(p.rows, p.n, team, [&](int64_t row, int64_t chunk, int64_t first, int64_t count) {
        new_update(p, row, chunk, first, count);
    });
    in_rows([&](int64_t row) { add_up(p, row, 3 * m, 4); });
    each_chunk(p.rows, p.n, team,
               [&](int64_t row, int64_t, int64_t first, int64_t count) { move(p, row, first, count); });
    in_rows([&](int64_t row) { count_row(p, row); });
}

} // namespace

extern const Broyden broyden_steps{{broyden<float>}, {broyden<double>}};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
