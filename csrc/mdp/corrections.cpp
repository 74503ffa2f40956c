// The rewards of corrections, with about twice the precision of double.
#include "core/launch.hpp"
#include "mdp/bounds.hpp"
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fastiter::mdp {
namespace {

constexpr double kUnit = 0x1p-53;
constexpr double kSmallest = std::numeric_limits<double>::denorm_min();
constexpr int64_t kEntries = 1 << 12; // per thread

// high + low, where |low| is at most an ulp of high
struct Pair {
    double high = 0, low = 0;

    void add(double x) {
        const double sum = high + x, share = sum - high;
        low += (high - (sum - share)) + (x - share);
        high = sum;
    }
    void add_product(double a, double b) {
        const double product = a * b;
        add(product);
        low += std::fma(a, b, -product);
    }
};

// The correction of row j of state s before it is rounded to T, and a bound on its error
struct Correction {
    double value, error;
};
template <class T> Correction correction(const Process<T>& p, const double* base, int64_t s, int64_t j) {
    Pair sum, all;
    double size = 0;
    const int64_t begin = p.entry[p.at(j)], end = p.entry[p.at(j) + 1];
    for (int64_t e = begin; e < end; ++e) {
        const double weight = double(p.weight[e]), value = base[p.next[e]];
        sum.add_product(weight, value);
        size += weight * std::abs(value);
    }
    const double reward = double(p.reward[j]), count = double(end - begin) + 4;
    size = p.discount * size + std::abs(base[s]) + std::abs(reward);
    all.add_product(p.discount, sum.high);
    all.add(-base[s]);
    all.add(reward);
    const double value = all.high + (all.low + p.discount * sum.low);
    // The parts `low` are rounded, and are of first order themselves; the last sum is rounded twice
    return {value, 4 * count * count * kUnit * kUnit * size + count * kSmallest + 2 * kUnit * std::abs(value)};
}

} // namespace

template <class T> double corrections(const Process<T>& p, const double* base, T limit, T* reward) {
    constexpr double unit = sizeof(T) == 8 ? 0 : 0x1p-24;
    std::vector<double> errors;
    launch(
        [&](Team team) {
            double largest = 0;
            const int64_t last = p.states * (team.id + 1) / team.size;
            for (int64_t s = p.states * team.id / team.size; s < last; ++s)
                for (int64_t j = p.row[s]; j < p.row[s + 1]; ++j) {
                    const auto [corrected, error] = correction(p, base, s, j);
                    reward[j] = T(std::max(corrected, -double(limit)));
                    if (corrected > -double(limit)) largest = std::max(largest, error + unit * std::abs(corrected));
                }
            errors[size_t(team.id)] = largest;
        },
        [&](int threads) {
            const int64_t entries = p.entry[p.pair ? p.shared : p.row[p.states]];
            const int used = threads_for(entries, kEntries, threads);
            errors.assign(size_t(used), 0);
            return used;
        });
    return *std::max_element(errors.begin(), errors.end()) + double(std::numeric_limits<T>::denorm_min());
}

template double corrections(const Process<float>&, const double*, float, float*);
template double corrections(const Process<double>&, const double*, double, double*);

} // namespace fastiter::mdp
