#include "mdp/pattern.hpp"
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fastiter::mdp {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Calls f(s, j, e) for each entry with a positive weight.
template <class T, class F> void for_entries(const Process<T>& p, F f) {
    for (int64_t s = 0; s < p.states; ++s)
        for (int64_t j = p.row[s]; j < p.row[s + 1]; ++j)
            for (int64_t x = p.at(j), e = p.entry[x]; e < p.entry[x + 1]; ++e)
                if (p.weight[e] > 0) f(s, e);
}

// A sum, with bounds on its exact value that are equal if no addition has been rounded
class ExactSum {
public:
    void add(double x) {
        const double sum = sum_ + x, share = sum - sum_, error = (sum_ - (sum - share)) + (x - share);
        sum_ = sum;
        error_ += error;
        size_ += std::abs(error);
    }
    double nearest() const { return sum_ + error_; }
    double below() const { return size_ == 0 ? sum_ : std::nextafter(sum_ + error_, 0.0); }
    double above() const { return size_ == 0 ? sum_ : std::nextafter(sum_ + error_, kInfinity); }

private:
    double sum_ = 0, error_ = 0, size_ = 0; // error_: of sum_, correct to 2^-53 times size_ for each addition
};

// Ends: some states are terminal, so that sums of all weights and of those that go on differ.
template <class T, bool Ends>
Checked check_rows(const Process<T>& p, int64_t rows, int64_t pairs, int64_t entries, double tolerance) {
    Checked result;
    result.low = kInfinity;
    auto report = [&](Fault fault, int64_t row, double value) {
        result.fault = fault;
        result.row = row;
        result.value = value;
        return result;
    };
    if (p.entry[0] != 0 || p.entry[rows] != entries) return report(Fault::pointers, 0, 0);
    for (int64_t j = 0; j < rows; ++j) {
        if (p.entry[j + 1] < p.entry[j] || p.entry[j + 1] > entries) return report(Fault::pointers, j, 0);
        ExactSum all, going;
        for (int64_t e = p.entry[j]; e < p.entry[j + 1]; ++e) {
            if (p.next[e] < 0 || p.next[e] >= p.states) return report(Fault::next, j, double(p.next[e]));
            const double weight = double(p.weight[e]);
            if (!(weight >= 0) || !std::isfinite(weight)) return report(Fault::negative, j, weight);
            all.add(weight);
            const int64_t to = p.next[e];
            if constexpr (Ends) going.add(p.row[to] < p.row[to + 1] ? weight : 0);
        }
        const double sum = all.nearest();
        if (tolerance >= 0 && !(std::abs(sum - 1) <= tolerance)) return report(Fault::sum, j, sum);
        if (!p.pair && !std::isfinite(double(p.reward[j]))) return report(Fault::reward, j, double(p.reward[j]));
        const ExactSum& exact = Ends ? going : all;
        result.low = std::min(result.low, exact.below());
        result.high = std::max(result.high, exact.above());
    }
    for (int64_t i = 0; p.pair && i < pairs; ++i)
        if (!std::isfinite(double(p.reward[i]))) return report(Fault::reward, i, double(p.reward[i]));
    return result;
}

} // namespace

template <class T>
Checked check_process(const Process<T>& p, int64_t rows, int64_t pairs, int64_t entries, double tolerance) {
    for (int64_t s = 0; s < p.states; ++s)
        if (p.row[s] == p.row[s + 1]) return check_rows<T, true>(p, rows, pairs, entries, tolerance);
    return check_rows<T, false>(p, rows, pairs, entries, tolerance);
}

template <class T> int64_t predecessors(const Process<T>& p, int64_t* start, int32_t* before) {
    std::vector<int32_t> last(size_t(p.states), -1); // the last state counted for each next state
    std::vector<int64_t> at;
    if (before)
        at.assign(start, start + p.states);
    else
        std::fill_n(start, p.states + 1, 0);
    for_entries(p, [&](int64_t s, int64_t e) {
        const int32_t to = p.next[e];
        if (last[size_t(to)] == s) return;
        last[size_t(to)] = int32_t(s);
        if (before)
            before[at[size_t(to)]++] = int32_t(s);
        else
            ++start[to + 1];
    });
    if (!before)
        for (int64_t s = 0; s < p.states; ++s) start[s + 1] += start[s];
    return start[p.states];
}

int64_t order_from(int64_t states, const int64_t* start, const int32_t* before, const uint8_t* is_goal,
                   int32_t* order) {
    std::vector<uint8_t> visited(is_goal, is_goal + states);
    int64_t count = 0;
    for (int64_t s = 0; s < states; ++s)
        if (is_goal[s]) order[count++] = int32_t(s);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t k = start[order[i]]; k < start[order[i] + 1]; ++k)
            if (!visited[size_t(before[k])]) {
                visited[size_t(before[k])] = 1;
                order[count++] = before[k];
            }
    int64_t end = count;
    for (int64_t s = 0; s < states; ++s)
        if (!visited[size_t(s)]) order[end++] = int32_t(s);
    return count;
}

template <class T> bool is_banded(const Process<T>& p, int64_t width) {
    for (int64_t s = 0; s < p.states; ++s)
        for (int64_t j = p.row[s]; j < p.row[s + 1]; ++j)
            for (int64_t x = p.at(j), e = p.entry[x]; e < p.entry[x + 1]; ++e)
                if (std::abs(p.next[e] - s) > width) return false;
    return true;
}

template <class T> void absorbing(const Process<T>& p, bool idle, uint8_t* is_absorbing) {
    for (int64_t s = 0; s < p.states; ++s) {
        is_absorbing[s] = 1;
        for (int64_t j = p.row[s]; j < p.row[s + 1] && is_absorbing[s]; ++j) {
            if (idle && p.reward[j] != 0) is_absorbing[s] = 0;
            for (int64_t x = p.at(j), e = p.entry[x]; e < p.entry[x + 1] && is_absorbing[s]; ++e)
                if (p.weight[e] > 0 && p.next[e] != s) is_absorbing[s] = 0;
        }
    }
}

#define FASTITER_INSTANTIATE(T)                                                           \
    template Checked check_process(const Process<T>&, int64_t, int64_t, int64_t, double); \
    template int64_t predecessors(const Process<T>&, int64_t*, int32_t*);                 \
    template bool is_banded(const Process<T>&, int64_t);                                  \
    template void absorbing(const Process<T>&, bool, uint8_t*);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::mdp
