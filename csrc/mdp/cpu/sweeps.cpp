// Jacobi and Gauss-Seidel sweeps of the Bellman operator.
#include "core/cpu/simd.hpp"
#include "mdp/cpu/kernels.hpp"

namespace fastiter::mdp::FASTITER_LEVEL {
namespace {

constexpr double kInfinity = __builtin_inf();
// Entries between the prefetch of a value and its use: none where v and the entries that pass fit the second-level cache,
// more where v leaves the third-level cache to other arrays. 10^5, 2 10^5 and 10^6 states of a Garnet on Zen 4 take 1.7,
// 1.8 and 3.0 ns per entry without or with prefetches into the first-level cache, whose few misses in flight they use
// up; into the second level, as here, 1.4, 1.4 and 1.9. On a Xeon with 2 MB of second-level cache, 10^5 take 1.1 ns
// without and 1.4 with them.
constexpr int kNear = 32, kFar = 160;
template <class T> int ahead_of(const Process<T>& p) {
    const int64_t bytes = p.states * int64_t(sizeof(T));
    return bytes <= second_level_cache() / 2 ? 0 : bytes <= 4 << 20 ? kNear : kFar;
}
// In place of a number of entries: the entries are those of a shared row, whose sum is read or computed again
constexpr int kExpected = -1, kShared = -2;

struct Rows {
    int64_t begin, end;
};
template <class T> FASTITER_INLINE Rows rows_of(const Process<T>& p, int64_t s) {
    return p.row ? Rows{p.row[s], p.row[s + 1]} : Rows{s, s + 1};
}

// The sum over the entries of row j. L: the number of entries in every row, 0 if it varies; Ahead: see ahead_of. On
// Zen 5 an entry of a Garnet of 10^4 states takes 0.50 ns with L = 5 and 0.62 with 0.
template <class T, int L, int Ahead> FASTITER_INLINE double sum_of(const Process<T>& p, const T* v, int64_t j) {
    double sum = 0;
    const int64_t begin = L ? L * j : p.entry[j], end = L ? begin + L : p.entry[j + 1];
#pragma GCC unroll 8
    for (int64_t e = begin; e < end; ++e) {
        if constexpr (Ahead > 0) __builtin_prefetch(v + p.next[e + Ahead], 0, 2); // 2: the second level
        sum += double(p.weight[e]) * double(v[p.next[e]]);
    }
    return sum;
}

// q of pair j; L: see sum_of, or kExpected or kShared
template <class T, int L, int Ahead> FASTITER_INLINE double action_value(const Process<T>& p, const T* v, int64_t j) {
    if constexpr (L == kExpected)
        return double(p.reward[j]) + p.discount * p.expected[p.pair[j]];
    else if constexpr (L == kShared)
        return double(p.reward[j]) + p.discount * sum_of<T, 0, Ahead>(p, v, p.pair[j]);
    else
        return double(p.reward[j]) + p.discount * sum_of<T, L, Ahead>(p, v, j);
}

using Values = double __attribute__((vector_size(16)));
using Places = int64_t __attribute__((vector_size(16)));

struct Best {
    double value;
    int64_t row;
};
template <class T, int L, int Ahead>
FASTITER_INLINE Best best_of(const Process<T>& p, const T* v, int64_t begin, int64_t end) {
    // Vectors of two equal values: compilers turn a scalar selection into a branch, which random values mispredict.
    Values top = Values{} - kInfinity;
    Places row = Places{} + begin, at = row;
    for (int64_t j = begin; j < end; ++j, at += 1) {
        const Values q = Values{} + action_value<T, L, Ahead>(p, v, j);
        row = q > top ? at : row;
        top = q > top ? q : top;
    }
    return {top[0], row[0]};
}

template <class T, int L, int Ahead>
void backup_range(const Process<T>& process, const Backup<T>& backup, int64_t first, int64_t last, Span& all) {
    const Process<T> p = process; // copies, which stores cannot alias
    const Backup<T> b = backup;
    Span span = all;
    for (int64_t s = first; s < last; ++s) {
        const Rows rows = rows_of(p, s);
        if (rows.begin == rows.end) {
            b.w[s] = 0;
            if (b.action) b.action[s] = -1;
            continue;
        }
        const Best best = best_of<T, L, Ahead>(p, b.v, rows.begin, rows.end);
        const T value = T(best.value);
        const double change = double(value) - double(b.v[s]);
        span.low = change < span.low ? change : span.low;
        span.high = change > span.high ? change : span.high;
        b.w[s] = value;
        if (b.action) b.action[s] = int32_t(best.row - rows.begin);
    }
    all = span;
}

// Calls each.operator()<Ahead>(first, last) for a range of states, whose last rows are end_of(s), or of rows, and without
// prefetches for those whose prefetched indices would be past the end.
template <class T, class F, class G>
void in_parts(const Process<T>& p, int64_t first, int64_t last, int64_t entries, F end_of, G each) {
    with_constant<0, kNear, kFar>(ahead_of(p), [&]<int Ahead>() {
        int64_t low = first, high = Ahead ? last : first;
        while (low < high) {
            const int64_t s = low + (high - low) / 2;
            if (p.entry[end_of(s)] + Ahead <= entries)
                low = s + 1;
            else
                high = s;
        }
        if constexpr (Ahead > 0) each.template operator()<Ahead>(first, low);
        each.template operator()<0>(low, last);
    });
}

template <class T, class G> void in_parts(const Process<T>& p, int64_t first, int64_t last, G each) {
    const int64_t rows = p.row ? p.row[p.states] : p.states;
    in_parts(p, first, last, p.entry[rows], [&](int64_t s) { return rows_of(p, s).end; }, each);
}

template <class T, int L, int Ahead>
void expect_range(const Process<T>& process, const T* v, int64_t first, int64_t last) {
    const Process<T> p = process;
    for (int64_t x = first; x < last; ++x) p.expected[x] = sum_of<T, L, Ahead>(p, v, x);
}

template <class T> void expect(const Process<T>& p, const T* v, int64_t first, int64_t last) {
    with_constant<1, 2, 3, 4, 5, 0>(int(p.length), [&]<int L>() {
        in_parts(
            p, first, last, p.entry[p.shared], [](int64_t x) { return x + 1; },
            [&]<int Ahead>(int64_t from, int64_t to) { expect_range<T, L, Ahead>(p, v, from, to); });
    });
}

template <class T, int L> Span backup_of(const Process<T>& p, const Backup<T>& b) {
    Span span{kInfinity, -kInfinity};
    in_parts(p, b.first, b.last,
             [&]<int Ahead>(int64_t from, int64_t to) { backup_range<T, L, Ahead>(p, b, from, to, span); });
    return span;
}

template <class T, int L, int Ahead>
void evaluate_range(const Process<T>& process, const Backup<T>& backup, int64_t first, int64_t last) {
    const Process<T> p = process;
    const Backup<T> b = backup;
    for (int64_t s = first; s < last; ++s) {
        const double q = action_value<T, L, Ahead>(p, b.v, s);
        b.w[s] = T(q > -kInfinity ? q : -kInfinity);
    }
}

template <class T> void evaluate(const Process<T>& p, const Backup<T>& b) {
    if (p.expected) return evaluate_range<T, kExpected, 0>(p, b, b.first, b.last);
    with_constant<1, 2, 3, 4, 5, 0>(int(p.length), [&]<int L>() {
        in_parts(p, b.first, b.last,
                 [&]<int Ahead>(int64_t from, int64_t to) { evaluate_range<T, L, Ahead>(p, b, from, to); });
    });
}

template <class T> Span backup(const Process<T>& p, const Backup<T>& b) {
    if (p.expected) {
        Span span{kInfinity, -kInfinity};
        backup_range<T, kExpected, 0>(p, b, b.first, b.last, span);
        return span;
    }
    return with_constant<1, 2, 3, 4, 5, 0>(int(p.length), [&]<int L>() { return backup_of<T, L>(p, b); });
}

// The same q, solved for the value of s itself where the row leads back to s
template <class T> FASTITER_INLINE double exact_value(const Process<T>& p, const T* v, int64_t j, int64_t s) {
    double sum = 0, own = 0;
    const int64_t x = p.at(j);
    for (int64_t e = p.entry[x]; e < p.entry[x + 1]; ++e) {
        const double weight = double(p.weight[e]);
        const bool is_own = p.next[e] == s;
        sum += is_own ? 0.0 : weight * double(v[p.next[e]]);
        own += is_own ? weight : 0.0;
    }
    const double above = double(p.reward[j]) + p.discount * sum, below = 1 - p.discount * own;
    if (below == 1) return above;
    return above == 0 && below <= 0 ? double(v[s]) : above / (below > 0 ? below : 0.0);
}

template <class T, bool Exact, int L> double sweep_of(const Process<T>& p, const Sweep<T>& g) {
    double largest = 0;
    for (int64_t i = 0; i < g.count; ++i) {
        const int64_t s = g.order ? g.order[i] : i;
        const Rows rows = rows_of(p, s);
        if (rows.begin == rows.end) continue;
        double best = -kInfinity;
        for (int64_t j = rows.begin; j < rows.end; ++j) {
            const double q = Exact ? exact_value(p, g.v, j, s) : action_value<T, L, 0>(p, g.v, j);
            best = q > best ? q : best;
        }
        const double old = double(g.v[s]), change = best - old;
        g.v[s] = T(g.omega == 1 ? best : old + g.omega * change);
        const double size = change < 0 ? -change : change;
        largest = size > largest ? size : largest;
    }
    return largest;
}

template <class T> double sweep(const Process<T>& p, const Sweep<T>& g) {
    if (g.exact) return sweep_of<T, true, 0>(p, g);
    return p.pair ? sweep_of<T, false, kShared>(p, g) : sweep_of<T, false, 0>(p, g);
}

template <class T, int L>
void backups_of(const Process<T>& p, const T* v, const int32_t* states, int64_t count, double* w) {
    for (int64_t i = 0; i < count; ++i) {
        const Rows rows = rows_of(p, states[i]);
        w[i] = rows.begin == rows.end ? 0 : double(T(best_of<T, L, 0>(p, v, rows.begin, rows.end).value));
    }
}

template <class T> void backups(const Process<T>& p, const T* v, const int32_t* states, int64_t count, double* w) {
    p.pair ? backups_of<T, kShared>(p, v, states, count, w) : backups_of<T, 0>(p, v, states, count, w);
}

template <class T> void action_values(const Process<T>& p, const T* v, T* q, int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j)
        q[j] = T(p.expected ? action_value<T, kExpected, 0>(p, v, j) : action_value<T, 0, 0>(p, v, j));
}

template <class T, int L, int Ahead>
void earlier_range(const Process<T>& process, const Earlier<T>& earlier, int64_t first, int64_t last) {
    const Process<T> p = process;
    const Earlier<T> b = earlier;
    for (int64_t s = first; s < last; ++s) {
        const Rows rows = rows_of(p, s);
        const double visits = double(b.visits[s]);
        double sum = 0;
        for (int64_t j = rows.begin; j < rows.end; ++j) {
            const double expected =
                L == kExpected ? p.expected[p.pair[j]] : sum_of<T, L == kExpected ? 0 : L, Ahead>(p, b.v, j);
            sum += double(b.policy[j]) * expected;
            b.share[j] += visits * expected;
        }
        b.w[s] = T(double(b.base[s]) + p.discount * sum);
    }
}

template <class T> void earlier(const Process<T>& p, const Earlier<T>& b) {
    if (p.expected) return earlier_range<T, kExpected, 0>(p, b, b.first, b.last);
    with_constant<1, 2, 3, 4, 5, 0>(int(p.length), [&]<int L>() {
        in_parts(p, b.first, b.last,
                 [&]<int Ahead>(int64_t from, int64_t to) { earlier_range<T, L, Ahead>(p, b, from, to); });
    });
}

template <class T>
constexpr KernelsOf<T> kernels_of{expect<T>, backup<T>,  evaluate<T>, action_values<T>,
                                  sweep<T>,  earlier<T>, backups<T>};

} // namespace

extern const Kernels kernels{kernels_of<float>, kernels_of<double>};

} // namespace fastiter::mdp::FASTITER_LEVEL
