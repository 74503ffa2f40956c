// Robust Bellman operators: the worst probabilities near the given ones, for each row or for each state.
#pragma once
#include "mdp/cpu/kernels.hpp"
#include <vector>

namespace fastiter::mdp {

enum class Set { l1, interval, kl, chi2, contamination };

// One row's next states by increasing value
struct Outcome {
    double value, weight, low, high; // low, high: of the weight, where the set is given by intervals
};

// The least sum of q value over q near the weights; outcomes are put in order. least: the least value that mass may move
// to; infinity: that of the outcomes.
double worst(Set set, std::vector<Outcome>& outcomes, double radius, double least);

// sign -1: the best probabilities instead of the worst. radius (rows); low, high (entries) or null
template <class T> struct RobustBackup {
    const T* v = nullptr;
    T* w = nullptr;
    int32_t* action = nullptr;
    Set set = Set::l1;
    const double* radius = nullptr;
    const T *low = nullptr, *high = nullptr;
    double sign = 1;
    bool anywhere = false; // mass may move to any state, not only to the row's own next states
};
template <class T> Span robust_backup(const Process<T>&, const RobustBackup<T>&);

// The probabilities of all actions of a state share a budget, sum over a of |q_a - p_a|_1 <= radius (states): the value,
// and the probabilities of the actions, mixture (rows)
template <class T> Span shared_backup(const Process<T>&, const T* v, T* w, const double* radius, double* mixture);

} // namespace fastiter::mdp
