// Anderson's method: the new row of the Gram matrix, the least-squares problem and the mixing, in one pass over each
// history.
#include "fixedpoint/cpu/least_squares.hpp"
#include "fixedpoint/cpu/sums.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

constexpr int kSums = 5; // products of a difference i: dr_i.dr, dr_i.r, dg_i.dr, dg_i.r, dr_i.dg

// Where the newest difference of a slot is stored, and the number of differences including it
struct Place {
    int64_t slot, at, depth;
};
template <class T, class H> FASTITER_INLINE Place place_of(const AndersonStep<T, H>& p, int64_t row) {
    const int64_t slot = p.slot[row];
    const int64_t before = p.restart && p.restart[row] ? -1 : p.pushed[slot];
    if (before < 0) return {slot, -1, min_of(-1 - before, p.m)};
    // a division takes longer than all else for a row of a few numbers
    return {slot, before < p.m ? before : p.m == 1 ? 0 : before % p.m, min_of(before + 1, p.m)};
}

template <class T, class H> FASTITER_INLINE int64_t pushed_after(const AndersonStep<T, H>& p, int64_t row) {
    const int64_t before = p.restart && p.restart[row] ? -1 : p.pushed[p.slot[row]];
    return before < 0 ? -1 - before : before + 1;
}

template <class T, class H> FASTITER_INLINE H* history(H* from, const AndersonStep<T, H>& p, int64_t slot, int64_t i) {
    return from + (slot * p.m + i) * p.n;
}

// Writes r, g and their new differences, over the oldest ones, for one chunk, and the chunk's sums of products with all
// others.
template <class T, class H>
void push(const AndersonStep<T, H>& p, int64_t row, int64_t chunk, int64_t first, int64_t count) {
    constexpr int W = lanes<T>;
    const Place to = place_of(p, row);
    constexpr bool kRounded = sizeof(T) != sizeof(H);
    T residual[kChunk], rounded_r[kRounded ? kChunk : 1], rounded_g[kRounded ? kChunk : 1];
    const T *x = p.x + row * p.n + first, *f = p.f + row * p.n + first;
    T *r = p.last_r + to.slot * p.n + first, *g = p.last_g + to.slot * p.n + first;
    H* dr = to.at < 0 ? nullptr : history(p.dr, p, to.slot, to.at) + first;
    H* dg = to.at < 0 ? nullptr : history(p.dg, p, to.slot, to.at) + first;
    const vec<T> beta = broadcast(T(p.beta));
    const bool is_plain = p.beta == 1;
    for (int64_t j = 0; j < count; j += W) {
        const vec<T> at = load_up_to(x + j, count - j), value = load_up_to(f + j, count - j);
        const vec<T> now = value - at, mixed = is_plain ? value : fma(beta, now, at);
        if (dr) {
            put<T>(dr + j, now - load_up_to(r + j, count - j), count - j);
            put<T>(dg + j, mixed - load_up_to(g + j, count - j), count - j);
            if constexpr (kRounded) {
                store_up_to(rounded_r + j, widened<T>(dr + j, count - j), count - j);
                store_up_to(rounded_g + j, widened<T>(dg + j, count - j), count - j);
            }
        }
        store_up_to(residual + j, now, count - j);
        store_up_to(r + j, now, count - j);
        store_up_to(g + j, mixed, count - j);
    }
    const T *new_r = residual, *new_g = nullptr; // the newest differences, in T
    if constexpr (kRounded) {
        new_r = dr ? rounded_r : residual;
        new_g = rounded_g;
    } else {
        new_r = dr ? dr : residual;
        new_g = dg;
    }
    double* sums = p.workspace + (row * (chunks_of(p.n) + 1) + chunk) * kSums * p.m;
    for (int64_t i = 0; i < to.depth; ++i, sums += kSums) {
        const H* other = history(p.dr, p, to.slot, i) + first;
        const Pair pair = products<T>(other, new_r, residual, count);
        sums[0] = pair.first;
        sums[1] = pair.second;
        if (!p.type_one) continue;
        const Pair mixed = products<T>(history(p.dg, p, to.slot, i) + first, new_r, residual, count);
        sums[2] = mixed.first;
        sums[3] = mixed.second;
        sums[4] = dg ? product<T>(other, new_g, count) : 0;
    }
}

// The coefficients of one row, stored in place of its last chunk's sums
template <class T, class H> FASTITER_INLINE double* coefficients(const AndersonStep<T, H>& p, int64_t row) {
    const int64_t chunks = chunks_of(p.n);
    return p.workspace + (row * (chunks + 1) + chunks) * kSums * p.m;
}

constexpr double kSmallest = 0x1p-50; // smallest pivot, relative to a unit diagonal

// Adds up the sums of all chunks and enters the products of the newest difference into the Gram matrix of the row.
template <class T, class H> void enter(const AndersonStep<T, H>& p, int64_t row) {
    const Place to = place_of(p, row);
    const int64_t chunks = chunks_of(p.n), m = p.m;
    double* sums = coefficients(p, row) - chunks * kSums * m;
    for (int64_t c = 1; c < chunks; ++c)
        for (int64_t k = 0; k < to.depth * kSums; ++k) sums[k] += sums[c * kSums * m + k];
    double* gram = p.gram + to.slot * m * m;
    for (int64_t i = 0; i < to.depth; ++i, sums += kSums) {
        if (p.type_one) sums[1] = sums[3] - p.beta * sums[1];
        if (to.at < 0) continue;
        gram[i * m + to.at] = p.type_one ? sums[2] - p.beta * sums[0] : sums[0];
        gram[to.at * m + i] = p.type_one ? sums[4] - p.beta * sums[0] : sums[0];
    }
}

// Solves the least-squares problems of rows [first, first + count), at most as many as a vector has doubles.
template <class T, class H> void solve_two(const AndersonStep<T, H>& p, int64_t first, int64_t count) {
    const int64_t m = p.m, before = chunks_of(p.n) * kSums * m;
    Together s;
    int64_t depth[lanes<double>];
    for (int64_t k = 0; k < count; ++k) {
        depth[k] = place_of(p, first + k).depth;
        s.size = max_of(s.size, depth[k]);
    }
    const int64_t n = s.size;
    for (int64_t k = 0; k < lanes<double>; ++k) {
        const bool is_row = k < count;
        const double* gram = is_row ? p.gram + p.slot[first + k] * m * m : nullptr;
        const double* sums = is_row ? coefficients(p, first + k) - before : nullptr;
        for (int64_t i = 0; i < n; ++i) {
            const bool is_used = is_row && i < depth[k];
            for (int64_t j = 0; j <= i; ++j) s.a[i * n + j][k] = is_used ? gram[i * m + j] : 0;
            s.b[i][k] = is_used ? sums[i * kSums + 1] : 0;
        }
    }
    solve_positive(s, p.ridge, kSmallest);
    for (int64_t k = 0; k < count; ++k) {
        double* c = coefficients(p, first + k);
        for (int64_t i = 0; i < depth[k]; ++i) c[i] = s.b[i][k];
    }
}

template <class T, class H> void solve_one(const AndersonStep<T, H>& p, int64_t row) {
    const int64_t m = p.m;
    const Place to = place_of(p, row);
    double* c = coefficients(p, row);
    const double *gram = p.gram + to.slot * m * m, *sums = c - chunks_of(p.n) * kSums * m;
    Small s;
    s.size = to.depth;
    for (int64_t i = 0; i < s.size; ++i) {
        for (int64_t j = 0; j < s.size; ++j) s.a[i][j] = gram[i * m + j];
        s.b[i] = sums[i * kSums + 1];
    }
    equilibrate(s);
    solve_general(s, p.ridge, kSmallest);
    for (int64_t i = 0; i < s.size; ++i) c[i] = s.b[i] * s.scale[i];
}

// Solves the least-squares problems of rows [first, last), and counts their differences.
template <class T, class H> void solve(const AndersonStep<T, H>& p, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) enter(p, row);
    for (int64_t row = first; row < last; row += lanes<double>) {
        if (!p.type_one)
            solve_two(p, row, min_of(lanes<double>, last - row));
        else
            for (int64_t k = row; k < min_of(last, row + lanes<double>); ++k) solve_one(p, k);
    }
    for (int64_t row = first; row < last; ++row) {
        double *c = coefficients(p, row), check = 0;
        const int64_t depth = place_of(p, row).depth;
        for (int64_t i = 0; i < depth; ++i) check += c[i] * 0;
        for (int64_t i = 0; i < depth && check != 0; ++i) c[i] = 0; // some c is not finite
        p.pushed[p.slot[row]] = pushed_after(p, row);
    }
}

template <class T, class H> void mix(const AndersonStep<T, H>& p, int64_t row, int64_t first, int64_t count) {
    constexpr int W = lanes<T>, V = 4;
    const int64_t slot = p.slot[row], depth = min_of(p.pushed[slot], p.m);
    const double* c = coefficients(p, row);
    T factors[kMemory];
    for (int64_t i = 0; i < depth; ++i) factors[i] = T(-c[i]);
    const T* g = p.last_g + slot * p.n + first;
    const H* dg = history(p.dg, p, slot, 0) + first;
    T* next = p.next + row * p.n + first;
    int64_t j = 0;
    for (; j + V * W <= count; j += V * W) {
        vec<T> sum[V];
        for (int v = 0; v < V; ++v) sum[v] = load(g + j + v * W);
        for (int64_t i = 0; i < depth; ++i) {
            const vec<T> factor = broadcast(factors[i]);
            for (int v = 0; v < V; ++v) sum[v] = fma(widened<T>(dg + i * p.n + j + v * W, W), factor, sum[v]);
        }
        for (int v = 0; v < V; ++v) store(next + j + v * W, sum[v]);
    }
    for (; j < count; j += W) {
        vec<T> sum = load_up_to(g + j, count - j);
        for (int64_t i = 0; i < depth; ++i) sum = fma(widened<T>(dg + i * p.n + j, count - j), factors[i], sum);
        store_up_to(next + j, sum, count - j);
    }
}

template <class T, class H> void anderson(const AndersonStep<T, H>& p, Team team) {
    const int64_t begin = p.rows * team.id / team.size, end = p.rows * (team.id + 1) / team.size;
    if (chunks_of(p.n) == 1) {
        constexpr int64_t kGroup = lanes<double>;
        for (int64_t row = begin; row < end; row += kGroup) {
            const int64_t last = min_of(end, row + kGroup);
            for (int64_t k = row; k < last; ++k) push(p, k, 0, 0, p.n);
            solve(p, row, last);
            for (int64_t k = row; k < last; ++k) mix(p, k, 0, p.n);
        }
        return;
    }
    each_chunk(p.rows, p.n, team,
               [&](int64_t row, int64_t chunk, int64_t first, int64_t count) { push(p, row, chunk, first, count); });
    wait(team.barriers[0], team.size);
    solve(p, begin, end);
    wait(team.barriers[0], team.size);
    each_chunk(p.rows, p.n, team,
               [&](int64_t row, int64_t, int64_t first, int64_t count) { mix(p, row, first, count); });
}

} // namespace

extern const Anderson anderson_steps{
    {anderson<float, float>}, {anderson<double, double>}, {anderson<float, bf16>}, {anderson<double, float>}};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
