#include "mdp/robust.hpp"
#include "core/launch.hpp"
#include "core/memory.hpp"
#include <algorithm>
#include <cmath>
#include <limits>

namespace fastiter::mdp {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMinEntries = 1 << 12; // entries per thread
// Operations per entry, between two polls for a request to stop: of a search with exponentials, and of a sort
constexpr int64_t kSearch = 1000, kSort = 50;

double mean(const std::vector<Outcome>& outcomes) {
    double sum = 0;
    for (const Outcome& o : outcomes) sum += o.weight * o.value;
    return sum;
}

double mass(const std::vector<Outcome>& outcomes) {
    double sum = 0;
    for (const Outcome& o : outcomes) sum += o.weight;
    return sum;
}

// Moves half the radius from the largest values to the smallest one.
double worst_l1(const std::vector<Outcome>& outcomes, double radius, double lowest) {
    const bool anywhere = lowest < kInfinity;
    const double to = anywhere ? lowest : outcomes.front().value;
    double moved = std::min(radius / 2, mass(outcomes) - (anywhere ? 0 : outcomes.front().weight));
    double sum = mean(outcomes) + moved * to;
    for (size_t i = outcomes.size(); i-- > 0 && moved > 0;) {
        const double taken = std::min(moved, outcomes[i].weight);
        sum -= taken * outcomes[i].value;
        moved -= taken;
    }
    return sum;
}

double worst_in_intervals(const std::vector<Outcome>& outcomes) {
    double sum = 0, left = mass(outcomes);
    for (const Outcome& o : outcomes) left -= o.low;
    for (const Outcome& o : outcomes) {
        const double more = std::clamp(left, 0.0, o.high - o.low);
        sum += (o.low + more) * o.value;
        left -= more;
    }
    return sum;
}

// max over b > 0 of -b ln sum p e^(-v / b) - b radius. With x = 1 / b, the maximum is where the divergence of
// p e^(-x v) / Z from p, which increases with x, equals the radius.
double worst_kl(const std::vector<Outcome>& outcomes, double radius) {
    const double lowest = outcomes.front().value, range = outcomes.back().value - lowest, all = mass(outcomes);
    double at_least = 0;
    for (const Outcome& o : outcomes)
        if (o.value == lowest) at_least += o.weight;
    if (range == 0 || radius >= -std::log(at_least / all)) return lowest * all;
    if (radius == 0) return mean(outcomes);
    // Errors of log Z count by 1 / x, so that it has to be accurate near 0 if x is small.
    auto divergence = [&](double x, double& log_z) {
        const bool is_small = x * range < 0.5;
        double sum = 0, first = 0; // Z, or Z - 1 if x is small
        for (const Outcome& o : outcomes) {
            const double share = o.weight / all, away = o.value - lowest;
            const double term = is_small ? std::expm1(-x * away) : std::exp(-x * away);
            sum += share * term;
            first += share * (is_small ? 1 + term : term) * away;
        }
        log_z = is_small ? std::log1p(sum) : std::log(sum);
        return -x * first / (is_small ? 1 + sum : sum) - log_z;
    };
    double low = 0, high = 1 / range, log_z = 0;
    while (divergence(high, log_z) < radius && high < 1e18 / range) {
        low = high;
        high *= 4;
    }
    // the error of the value is of second order in this tolerance
    for (int k = 0; k < 200 && high - low > 1e-8 * high; ++k) {
        const double middle = (low + high) / 2;
        (divergence(middle, log_z) < radius ? low : high) = middle;
    }
    divergence(high, log_z);
    return all * (lowest + (-log_z - radius) / high);
}

// max over z of E min(v, z) - sqrt(radius Var min(v, z)). With the k smallest outcomes below z, of mass P, mean m and
// conditional variance s^2, the derivative vanishes at z = m + s / sqrt(radius P - (1 - P)). m and P s^2 are updated
// incrementally, and 1 - P is a sum from above (in ``low``), so that masses far below the rounding of 1 are kept: they
// count by their square root.
double worst_chi2(std::vector<Outcome>& outcomes, double radius) {
    const double all = mass(outcomes), origin = outcomes.front().value;
    double above = 0;
    for (size_t k = outcomes.size(); k-- > 0;) {
        outcomes[k].low = above;
        above += outcomes[k].weight / all;
    }
    double below = 0, inner = 0, squares = 0;
    for (size_t k = 0; k < outcomes.size(); ++k) {
        const double p = outcomes[k].weight / all, x = outcomes[k].value - origin, step = x - inner, before = below;
        below += p;
        if (below == 0) continue;
        inner += p / below * step;
        squares += p * (before / below) * step * step;
        const bool last = k + 1 == outcomes.size();
        const double rest = outcomes[k].low, curve = radius * below - rest;
        const double next = last ? x : outcomes[k + 1].value - origin;
        const double stationary = curve > 0 ? inner + std::sqrt(squares / below / curve) : kInfinity;
        if (!last && stationary > next) continue;
        const double z = std::clamp(stationary, x, next), away = z - inner;
        const double variance = squares + below * rest * away * away;
        return all * (origin + below * inner + rest * z - std::sqrt(radius * variance));
    }
    return mean(outcomes);
}

template <class T> void gather(const Process<T>& p, const RobustBackup<T>& b, int64_t x, std::vector<Outcome>& out) {
    out.clear();
    for (int64_t e = p.entry[x]; e < p.entry[x + 1]; ++e) {
        const double low = b.low ? double(b.low[e]) : 0, high = b.high ? double(b.high[e]) : 0;
        if (b.set == Set::interval || p.weight[e] > 0)
            out.push_back({b.sign * double(b.v[p.next[e]]), double(p.weight[e]), low, high});
    }
    std::sort(out.begin(), out.end(), [](const Outcome& a, const Outcome& c) { return a.value < c.value; });
}

template <class T> int64_t rows_of(const Process<T>& p) {
    return p.pair ? p.shared : p.row ? p.row[p.states] : p.states;
}

// Runs f(team, first, last) for ranges of `count` states or rows on a team, and returns the smallest and the largest
// change. Throws after a request to stop, with incomplete results.
template <class T, class F> Span in_parts(const Process<T>& p, int64_t count, F f) {
    std::vector<Span> spans;
    launch(
        [&](Team team) {
            spans[size_t(team.id)] = f(team, count * team.id / team.size, count * (team.id + 1) / team.size);
        },
        [&](int threads) {
            const int used = threads_for(p.entry[rows_of(p)], kMinEntries, threads);
            spans.assign(size_t(used), {});
            return used;
        },
        Stops::on_request);
    Span all = spans[0];
    for (const Span& s : spans) all = {std::min(all.low, s.low), std::max(all.high, s.high)};
    return all;
}

void widen(Span& span, double change) { span = {std::min(span.low, change), std::max(span.high, change)}; }

// The r + gamma sigma(x) of one action as a function of its share x of the budget: the points of a decreasing, convex,
// piecewise linear function
struct Curve {
    std::vector<double> budget, value;
    // The smallest budget with a value of at most u; infinity if there is none
    double budget_for(double u) const {
        if (value.front() <= u) return 0;
        if (value.back() > u) return kInfinity;
        const size_t k =
            size_t(std::partition_point(value.begin(), value.end(), [&](double x) { return x > u; }) - value.begin());
        const double share = (value[k - 1] - u) / (value[k - 1] - value[k]);
        return budget[k - 1] + share * (budget[k] - budget[k - 1]);
    }
    // -d value / d budget just below the smallest budget with value u
    double slope(double u) const {
        const size_t k =
            size_t(std::partition_point(value.begin(), value.end(), [&](double x) { return x > u; }) - value.begin());
        return (value[k - 1] - value[k]) / (budget[k] - budget[k - 1]);
    }
};

void fill(Curve& curve, const std::vector<Outcome>& outcomes, double reward, double discount) {
    curve.budget.assign(1, 0);
    curve.value.assign(1, reward + discount * mean(outcomes));
    for (size_t i = outcomes.size(); i-- > 1;) {
        const double drop = outcomes[i].value - outcomes.front().value;
        if (drop <= 0) break;
        curve.budget.push_back(curve.budget.back() + 2 * outcomes[i].weight);
        curve.value.push_back(curve.value.back() - discount * outcomes[i].weight * drop);
    }
}

// The smallest u that all actions can reach with the budget they share
double shared_value(const std::vector<Curve>& curves, double radius) {
    double low = -kInfinity, high = -kInfinity;
    for (const Curve& c : curves) {
        low = std::max(low, c.value.back());
        high = std::max(high, c.value.front());
    }
    for (int k = 0; k < 200 && high - low > 1e-16 * std::max(std::abs(low), std::abs(high)); ++k) {
        const double middle = low + (high - low) / 2;
        double sum = 0;
        for (const Curve& c : curves) sum += c.budget_for(middle);
        if (middle <= low || middle >= high) break;
        (sum <= radius ? high : low) = middle;
    }
    double sum = 0;
    for (const Curve& c : curves) sum += c.budget_for(low);
    return sum <= radius ? low : high;
}

// Weights each action with a positive budget by the inverse of its slope; a single action if the budget changes nothing
// or cannot lower its value further
void fill_mixture(const std::vector<Curve>& curves, double u, double* mixture) {
    double total = 0;
    size_t best = 0;
    for (const Curve& c : curves) {
        if (c.value.back() < u) continue;
        for (size_t a = 0; a < curves.size(); ++a) mixture[a] = &c == &curves[a];
        return;
    }
    for (size_t a = 0; a < curves.size(); ++a) {
        const bool pays = curves[a].value.front() > u && curves[a].value.back() <= u;
        mixture[a] = pays ? 1 / curves[a].slope(u) : 0;
        total += mixture[a];
        if (curves[a].value.front() > curves[best].value.front()) best = a;
    }
    if (total == 0) mixture[best] = total = 1;
    for (size_t a = 0; a < curves.size(); ++a) mixture[a] /= total;
}

} // namespace

double worst(Set set, std::vector<Outcome>& outcomes, double radius, double lowest) {
    if (outcomes.empty()) return 0;
    switch (set) {
    case Set::l1:
        return worst_l1(outcomes, radius, lowest);
    case Set::interval:
        return worst_in_intervals(outcomes);
    case Set::kl:
        return worst_kl(outcomes, radius);
    case Set::chi2:
        return worst_chi2(outcomes, radius);
    default:
        return (1 - radius) * mean(outcomes) + radius * mass(outcomes) * std::min(lowest, outcomes.front().value);
    }
}

template <class T> Span robust_backup(const Process<T>& p, const RobustBackup<T>& b) {
    double lowest = kInfinity;
    for (int64_t s = 0; b.anywhere && s < p.states; ++s) lowest = std::min(lowest, b.sign * double(b.v[s]));
    const int64_t each = b.set == Set::kl ? kSearch : kSort;
    auto worst_of = [&](int64_t x, std::vector<Outcome>& outcomes) {
        gather(p, b, x, outcomes);
        return worst(b.set, outcomes, b.radius[x], lowest);
    };
    Block<double> shared;
    if (p.pair) {
        shared = Block<double>(p.shared);
        in_parts(p, p.shared, [&](const Team& team, int64_t first, int64_t last) {
            std::vector<Outcome> outcomes;
            for (int64_t x = first; x < last && !has_to_stop(team, each * (p.entry[x + 1] - p.entry[x])); ++x)
                shared[x] = worst_of(x, outcomes);
            return Span{};
        });
    }
    return in_parts(p, p.states, [&](const Team& team, int64_t first, int64_t last) {
        Span span{kInfinity, -kInfinity};
        std::vector<Outcome> outcomes;
        for (int64_t s = first; s < last; ++s) {
            const int64_t begin = p.row ? p.row[s] : s, end = p.row ? p.row[s + 1] : s + 1;
            if (has_to_stop(team, p.pair ? end - begin : each * (p.entry[end] - p.entry[begin]))) return span;
            double best = begin == end ? 0 : -kInfinity;
            int32_t action = begin == end ? -1 : 0;
            for (int64_t j = begin; j < end; ++j) {
                const double sum = p.pair ? shared[p.pair[j]] : worst_of(j, outcomes);
                const double q = double(p.reward[j]) + p.discount * b.sign * sum;
                if (q > best) {
                    best = q;
                    action = int32_t(j - begin);
                }
            }
            b.w[s] = T(best);
            if (b.action) b.action[s] = action;
            if (begin < end) widen(span, double(b.w[s]) - double(b.v[s]));
        }
        return span;
    });
}

template <class T> Span shared_backup(const Process<T>& p, const T* v, T* w, const double* radius, double* mixture) {
    return in_parts(p, p.states, [&](const Team& team, int64_t first, int64_t last) {
        Span span{kInfinity, -kInfinity};
        std::vector<Outcome> outcomes;
        std::vector<Curve> curves;
        const RobustBackup<T> b{v};
        for (int64_t s = first; s < last; ++s) {
            const int64_t begin = p.row[s], end = p.row[s + 1];
            w[s] = 0;
            int64_t entries = 0;
            for (int64_t j = begin; j < end; ++j) entries += p.entry[p.at(j) + 1] - p.entry[p.at(j)];
            if (has_to_stop(team, kSearch * entries)) return span;
            if (begin == end) continue;
            curves.resize(size_t(end - begin));
            for (int64_t j = begin; j < end; ++j) {
                gather(p, b, p.at(j), outcomes);
                fill(curves[size_t(j - begin)], outcomes, double(p.reward[j]), p.discount);
            }
            const double u = shared_value(curves, radius[s]);
            w[s] = T(u);
            if (mixture) fill_mixture(curves, u, mixture + begin);
            widen(span, double(w[s]) - double(v[s]));
        }
        return span;
    });
}

#define FASTITER_INSTANTIATE(T)                                             \
    template Span robust_backup(const Process<T>&, const RobustBackup<T>&); \
    template Span shared_backup(const Process<T>&, const T*, T*, const double*, double*);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::mdp
