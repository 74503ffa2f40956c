// Visits are gathered along the transposed entries, which are sorted once, so that each sum belongs to one thread.
#include "mdp/policies/occupancy.hpp"
#include "core/dispatch.hpp"
#include "core/launch.hpp"
#include "core/memory.hpp"
#include "core/rows.hpp"
#include "mdp/model.hpp"
#include <algorithm>
#include <utility>

namespace fastiter::mdp {
namespace {

constexpr int64_t kMinEntries = 1 << 14; // entries per thread
constexpr int64_t kSteps = 8;            // steps whose terms are added to the gradient of an entry at once

template <class T> int64_t rows_of(const Process<T>& p) { return p.pair ? p.shared : p.row[p.states]; }

// Calls f(first, last) for a member's part of [0, count), in which `before` counts the work.
template <class F, class G> void in_part(const Team& team, int64_t count, F before, G f) {
    f(first_of_part(0, count, team.id, team.size, before), first_of_part(0, count, team.id + 1, team.size, before));
}

void meet(const Team& team) {
    if (team.size > 1) wait(team.barriers[0], team.size);
}

// Lists sorted by a key, each in the order of its elements: of key k the elements start[k] .. start[k + 1]
struct Lists {
    // each(f) calls f(key, element, from), always in the same order.
    template <class Each> Lists(int64_t keys, Each each) : start(keys + 1) {
        std::fill_n(start.data(), keys + 1, 0);
        each([&](int64_t key, int64_t, int64_t) { ++start[key + 1]; });
        for (int64_t k = 0; k < keys; ++k) start[k + 1] += start[k];
        element = Block<int64_t>(start[keys]);
        from = Block<int32_t>(start[keys]);
        Block<int64_t> at(keys);
        std::copy_n(start.data(), keys, at.data());
        each([&](int64_t key, int64_t e, int64_t source) {
            element[at[key]] = e;
            from[at[key]++] = int32_t(source);
        });
    }

    int64_t size(int64_t keys) const { return start[keys]; }

    Block<int64_t> start, element;
    Block<int32_t> from;
};

// The pairs of each row of P, with their states
template <class T> Lists pairs_of(const Process<T>& p, const T* policy) {
    return Lists(p.pair ? p.shared : 0, [&](auto f) {
        for (int64_t s = 0; s < p.states && p.pair; ++s)
            for (int64_t i = p.row[s]; i < p.row[s + 1]; ++i)
                if (policy[i] != 0) f(p.pair[i], i, s);
    });
}

// The entries that lead to each state, with the rows of P that they come from if pairs share these, else the states
template <class T> Lists entries_to(const Process<T>& p, const T* policy) {
    return Lists(p.states, [&](auto f) {
        if (p.pair) {
            for (int64_t x = 0; x < p.shared; ++x)
                for (int64_t e = p.entry[x]; e < p.entry[x + 1]; ++e) f(p.next[e], e, x);
            return;
        }
        for (int64_t s = 0; s < p.states; ++s)
            for (int64_t i = p.row[s]; i < p.row[s + 1]; ++i)
                for (int64_t e = p.entry[i]; e < p.entry[i + 1] && policy[i] != 0; ++e) f(p.next[e], e, s);
    });
}

// The weights of the sorted entries, times the shares of their pairs if these have their own rows
template <class T> Block<T> weights_of(const Process<T>& p, const T* policy, const Lists& entries) {
    Block<T> each(p.entry[rows_of(p)]), sorted(entries.size(p.states));
    for (int64_t x = 0; x < rows_of(p); ++x)
        for (int64_t e = p.entry[x]; e < p.entry[x + 1]; ++e) each[e] = p.pair ? p.weight[e] : policy[x] * p.weight[e];
    for (int64_t k = 0; k < sorted.size() && entries.size(p.states); ++k) sorted[k] = each[entries.element[k]];
    return sorted;
}

// A process whose row x has the elements of list x, each the number of its source with a weight
template <class T> Process<T> gathering(const Lists& lists, int64_t keys, int64_t sources, const Block<T>& weight) {
    Process<T> p;
    p.states = sources;
    p.entry = lists.start.data();
    p.next = lists.from.data();
    p.weight = weight.data();
    p.shared = keys;
    return p;
}

// y(x): the visits of rows of P that pairs share
template <class T> class Shared {
public:
    Shared(const Process<T>& p, const T* policy)
        : pairs_(pairs_of(p, policy)), weight_(pairs_.size(p.pair ? p.shared : 0)), sums_(p.shared),
          p_(gathering(pairs_, p.shared, p.states, weight_)) {
        for (int64_t k = 0; k < weight_.size() && p.pair; ++k) weight_[k] = policy[pairs_.element[k]];
        p_.expected = sums_.data();
    }

    void run(const T* m, int64_t first, int64_t last) const { kernels().of<KernelsOf<T>>().expect(p_, m, first, last); }
    double of(int64_t x) const { return sums_[x]; }
    int64_t work(int64_t x) const { return pairs_.start[x] + x; }

private:
    Lists pairs_;
    Block<T> weight_;
    Block<double> sums_;
    Process<T> p_;
};

template <class T> class Forward {
public:
    Forward(const Process<T>& p, const Visits<T>& v)
        : p_(p), v_(v), shared_(p, v.policy), entries_(entries_to(p, v.policy)),
          weight_(weights_of(p, v.policy, entries_)), y_(p.shared), two_(2 * p.states), sum_(p.states),
          arriving_(p.states), to_(gathering(entries_, p.states, p.pair ? p.shared : p.states, weight_)) {
        to_.expected = arriving_.data();
    }

    void run(const Team& team) {
        auto by_entries = [&](int64_t s) { return entries_.start[s] + s; };
        in_part(team, p_.states, by_entries, [&](int64_t first, int64_t last) {
            for (int64_t s = first; s < last; ++s) {
                sum_[s] = double(v_.start[s]);
                of(0)[s] = v_.start[s];
            }
        });
        for (int64_t t = 0; t + 1 < v_.horizon; ++t) {
            meet(team);
            if (p_.pair) {
                auto by_pairs = [&](int64_t x) { return shared_.work(x); };
                in_part(team, p_.shared, by_pairs, [&](int64_t first, int64_t last) {
                    shared_.run(of(t), first, last);
                    for (int64_t x = first; x < last; ++x) y_[x] = T(shared_.of(x));
                });
                meet(team);
            }
            in_part(team, p_.states, by_entries, [&](int64_t first, int64_t last) {
                kernels().of<KernelsOf<T>>().expect(to_, p_.pair ? y_.data() : of(t), first, last);
                add(p_.discount, arriving_.data(), of(t + 1), sum_.data(), first, last);
            });
        }
        in_part(team, p_.states, by_entries, [&](int64_t first, int64_t last) {
            for (int64_t s = first; s < last; ++s) v_.total[s] = T(sum_[s]);
        });
    }

private:
    T* of(int64_t t) const { return v_.history ? v_.history + t * p_.states : two_.data() + t % 2 * p_.states; }

    static void add(double discount, const double* arriving, T* m, double* sum, int64_t first, int64_t last) {
        for (int64_t s = first; s < last; ++s) {
            m[s] = T(discount * arriving[s]);
            sum[s] += double(m[s]);
        }
    }

    const Process<T>& p_;
    const Visits<T>& v_;
    Shared<T> shared_;
    Lists entries_;
    Block<T> weight_, y_, two_;
    Block<double> sum_, arriving_;
    Process<T> to_;
};

template <class T> class Backward {
public:
    Backward(const Process<T>& p, const VisitGradients<T>& g)
        : p_(p), g_(g), shared_(g.weight ? p : Process<T>{}, g.policy), expected_(p.pair ? p.shared : 0),
          share_(p.row[p.states]), two_(2 * p.states), later_(g.weight ? kSteps * p.states : 0),
          source_(g.weight ? kSteps * sources() : 0) {
        p_.expected = p.pair ? expected_.data() : nullptr;
        p_.length = length_of_rows(p.entry, rows_of(p));
    }

    void run(const Team& team) {
        auto by_work = [&](int64_t s) { return (p_.pair ? 0 : p_.entry[p_.row[s]]) + p_.row[s] + s; };
        auto by_rows = [&](int64_t x) { return p_.entry[x] + x; };
        in_part(team, p_.states, by_work, [&](int64_t first, int64_t last) {
            std::copy(g_.total + first, g_.total + last, two_.data() + first);
            std::fill(share_.data() + p_.row[first], share_.data() + p_.row[last], 0.0);
        });
        in_part(team, rows_of(p_), by_rows, [&](int64_t first, int64_t last) {
            if (g_.weight) std::fill(g_.weight + p_.entry[first], g_.weight + p_.entry[last], T(0));
        });
        for (int64_t n = 0; n + 1 < g_.horizon; ++n) {
            meet(team);
            const T* m = g_.history + (g_.horizon - 2 - n) * p_.states;
            if (p_.pair) {
                in_part(team, p_.shared, by_rows, [&](int64_t first, int64_t last) {
                    kernels().of<KernelsOf<T>>().expect(p_, of(n), first, last);
                    if (!g_.weight) return;
                    shared_.run(m, first, last);
                    for (int64_t x = first; x < last; ++x) source_[kSteps * x + n % kSteps] = shared_.of(x);
                });
                meet(team);
            }
            in_part(team, p_.states, by_work, [&](int64_t first, int64_t last) { step(n, m, first, last); });
            const bool is_full = n % kSteps + 1 == kSteps || n + 2 == g_.horizon;
            if (!g_.weight || !is_full) continue;
            meet(team);
            in_part(team, rows_of(p_), by_rows,
                    [&](int64_t first, int64_t last) { add_to_weights(n % kSteps + 1, first, last); });
        }
        meet(team);
        in_part(team, p_.states, by_work, [&](int64_t first, int64_t last) {
            std::copy(of(g_.horizon - 1) + first, of(g_.horizon - 1) + last, g_.start + first);
            for (int64_t i = p_.row[first]; i < p_.row[last]; ++i) g_.share[i] = T(share_[i]);
        });
    }

private:
    int64_t sources() const { return p_.pair ? p_.shared : p_.states; }
    T* of(int64_t n) const { return two_.data() + n % 2 * p_.states; }

    void step(int64_t n, const T* m, int64_t first, int64_t last) {
        kernels().of<KernelsOf<T>>().earlier(p_,
                                             {of(n), g_.total, g_.policy, m, of(n + 1), share_.data(), first, last});
        for (int64_t s = first; s < last && g_.weight; ++s) {
            later_[kSteps * s + n % kSteps] = double(of(n)[s]);
            if (!p_.pair) source_[kSteps * s + n % kSteps] = double(m[s]);
        }
    }

    void add_to_weights(int64_t steps, int64_t first, int64_t last) {
        int64_t s = 0;
        if (!p_.pair) s = std::upper_bound(p_.row, p_.row + p_.states + 1, first) - p_.row - 1;
        for (int64_t x = first; x < last; ++x) {
            while (!p_.pair && p_.row[s + 1] <= x) ++s;
            const double* source = source_.data() + kSteps * (p_.pair ? x : s);
            const double factor = p_.pair ? 1 : double(g_.policy[x]);
            for (int64_t e = p_.entry[x]; e < p_.entry[x + 1]; ++e)
                g_.weight[e] += T(factor * dot(source, later_.data() + kSteps * p_.next[e], steps));
        }
    }

    static double dot(const double* a, const double* b, int64_t steps) {
        double parts[4] = {};
        if (steps == kSteps) // independent sums, of which the processor adds several at once
            for (int64_t k = 0; k < kSteps; ++k) parts[k % 4] += a[k] * b[k];
        else
            for (int64_t k = 0; k < steps; ++k) parts[0] += a[k] * b[k];
        return (parts[0] + parts[1]) + (parts[2] + parts[3]);
    }

    Process<T> p_;
    const VisitGradients<T>& g_;
    Shared<T> shared_;
    Block<double> expected_, share_;
    Block<T> two_;
    Block<double> later_, source_;
};

template <class T, class Run> void on_a_team(const Process<T>& p, Run& run) {
    launch([&](Team team) { run.run(team); },
           [&](int threads) { return threads_for(p.entry[rows_of(p)] + p.row[p.states], kMinEntries, threads); });
}

} // namespace

template <class T> void visit(const Process<T>& p, const Visits<T>& v) {
    Forward<T> run(p, v);
    on_a_team(p, run);
}

template <class T> void visit_gradients(const Process<T>& p, const VisitGradients<T>& g) {
    Backward<T> run(p, g);
    on_a_team(p, run);
}

template void visit(const Process<float>&, const Visits<float>&);
template void visit(const Process<double>&, const Visits<double>&);
template void visit_gradients(const Process<float>&, const VisitGradients<float>&);
template void visit_gradients(const Process<double>&, const VisitGradients<double>&);

} // namespace fastiter::mdp
