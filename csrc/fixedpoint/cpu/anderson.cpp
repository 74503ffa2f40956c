// Anderson's method: the row of the Gram matrix, the least squares and the mixing, in one pass over each history.
#include "fixedpoint/cpu/least_squares.hpp"
#include "fixedpoint/cpu/sums.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

constexpr int kSums = 5; // of a difference: dr_i.dr, dr_i.r, dg_i.dr, dg_i.r, dr_i.dg

// Where the newest difference of a slot goes, and how many there are with it
struct Place {
    int64_t slot, at, held;
};
template <class T> FASTITER_INLINE Place place_of(const AndersonStep<T>& p, int64_t row) {
    const int64_t slot = p.slot[row];
    const int64_t before = p.restart && p.restart[row] ? -1 : p.pushed[slot];
    if (before < 0) return {slot, -1, min_of(-1 - before, p.m)};
    return {slot, before % p.m, min_of(before + 1, p.m)};
}

template <class T> FASTITER_INLINE int64_t pushed_after(const AndersonStep<T>& p, int64_t row) {
    const int64_t before = p.restart && p.restart[row] ? -1 : p.pushed[p.slot[row]];
    return before < 0 ? -1 - before : before + 1;
}

template <class T> FASTITER_INLINE T* history(T* from, const AndersonStep<T>& p, int64_t slot, int64_t i) {
    return from + (slot * p.m + i) * p.n;
}

// Writes r, g and their differences of one chunk, in place of the oldest, and the sums of products with all others.
template <class T> void push(const AndersonStep<T>& p, int64_t row, int64_t chunk, int64_t first, int64_t count) {
    constexpr int W = lanes<T>;
    const Place to = place_of(p, row);
    T residual[kChunk];
    const T *x = p.x + row * p.n + first, *f = p.f + row * p.n + first;
    T *r = p.last_r + to.slot * p.n + first, *g = p.last_g + to.slot * p.n + first;
    T* dr = to.at < 0 ? nullptr : history(p.dr, p, to.slot, to.at) + first;
    T* dg = to.at < 0 ? nullptr : history(p.dg, p, to.slot, to.at) + first;
    const vec<T> beta = broadcast(T(p.beta));
    const bool is_plain = p.beta == 1;
    for (int64_t j = 0; j < count; j += W) {
        const vec<T> at = load_up_to(x + j, count - j), value = load_up_to(f + j, count - j);
        const vec<T> now = value - at, mixed = is_plain ? value : fma(beta, now, at);
        if (dr) {
            store_up_to(dr + j, now - load_up_to(r + j, count - j), count - j);
            store_up_to(dg + j, mixed - load_up_to(g + j, count - j), count - j);
        }
        store_up_to(residual + j, now, count - j);
        store_up_to(r + j, now, count - j);
        store_up_to(g + j, mixed, count - j);
    }
    double* sums = p.workspace + (row * (chunks_of(p.n) + 1) + chunk) * kSums * p.m;
    for (int64_t i = 0; i < to.held; ++i, sums += kSums) {
        const T* other = history(p.dr, p, to.slot, i) + first;
        const Pair found = products<T>(other, dr ? dr : residual, residual, count);
        sums[0] = found.first, sums[1] = found.second;
        if (!p.type_one) continue;
        const Pair mixed = products<T>(history(p.dg, p, to.slot, i) + first, dr ? dr : residual, residual, count);
        sums[2] = mixed.first, sums[3] = mixed.second;
        sums[4] = dg ? product<T>(other, dg, count) : 0;
    }
}

// The coefficients of one row, where its last chunk's sums would be
template <class T> FASTITER_INLINE double* coefficients(const AndersonStep<T>& p, int64_t row) {
    const int64_t chunks = chunks_of(p.n);
    return p.workspace + (row * (chunks + 1) + chunks) * kSums * p.m;
}

template <class T> void solve(const AndersonStep<T>& p, int64_t row) {
    const Place to = place_of(p, row);
    const int64_t chunks = chunks_of(p.n), m = p.m, held = to.held;
    double* sums = coefficients(p, row) - chunks * kSums * m;
    for (int64_t c = 1; c < chunks; ++c)
        for (int64_t k = 0; k < held * kSums; ++k) sums[k] += sums[c * kSums * m + k];
    double* gram = p.gram + to.slot * m * m;
    Small s;
    s.size = held;
    for (int64_t i = 0; i < held; ++i) {
        const double* d = sums + i * kSums;
        if (to.at >= 0) {
            gram[i * m + to.at] = p.type_one ? d[2] - p.beta * d[0] : d[0];
            gram[to.at * m + i] = p.type_one ? d[4] - p.beta * d[0] : d[0];
        }
        s.b[i] = p.type_one ? d[3] - p.beta * d[1] : d[1];
    }
    for (int64_t i = 0; i < held; ++i)
        for (int64_t j = 0; j < held; ++j) s.a[i][j] = gram[i * m + j];
    constexpr double kLeast = 0x1p-50;
    equilibrate(s, !p.type_one);
    p.type_one ? solve_general(s, p.ridge, kLeast) : solve_positive(s, p.ridge, kLeast);
    double* c = coefficients(p, row);
    double check = 0;
    for (int64_t i = 0; i < held; ++i) c[i] = s.b[i] * s.scale[i], check += c[i] * 0;
    if (check != 0)
        for (int64_t i = 0; i < held; ++i) c[i] = 0;
    p.pushed[to.slot] = pushed_after(p, row);
}

template <class T> void mix(const AndersonStep<T>& p, int64_t row, int64_t first, int64_t count) {
    constexpr int W = lanes<T>;
    const int64_t slot = p.slot[row], held = min_of(p.pushed[slot], p.m);
    const double* c = coefficients(p, row);
    const T *g = p.last_g + slot * p.n + first, *dg = history(p.dg, p, slot, 0) + first;
    T* next = p.next + row * p.n + first;
    for (int64_t j = 0; j < count; j += W) {
        vec<T> sum = load_up_to(g + j, count - j);
        for (int64_t i = 0; i < held; ++i) sum = fma(load_up_to(dg + i * p.n + j, count - j), T(-c[i]), sum);
        store_up_to(next + j, sum, count - j);
    }
}

template <class T> void anderson(const AndersonStep<T>& p, Team team) {
    if (chunks_of(p.n) == 1) {
        each_chunk(p.rows, p.n, team, [&](int64_t row, int64_t chunk, int64_t first, int64_t count) {
            push(p, row, chunk, first, count);
            solve(p, row);
            mix(p, row, first, count);
        });
        return;
    }
    each_chunk(p.rows, p.n, team,
               [&](int64_t row, int64_t chunk, int64_t first, int64_t count) { push(p, row, chunk, first, count); });
    wait(team.barriers[0], team.size);
    for (int64_t row = team.id; row < p.rows; row += team.size) solve(p, row);
    wait(team.barriers[0], team.size);
    each_chunk(p.rows, p.n, team,
               [&](int64_t row, int64_t, int64_t first, int64_t count) { mix(p, row, first, count); });
}

} // namespace

extern const Anderson anderson_steps{{anderson<float>}, {anderson<double>}};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
