// Robust Bellman operators: the worst probabilities in a set around the given ones, for each row or for each state.
#pragma once
#include "mdp/cpu/kernels.hpp"
#include <vector>

namespace fastiter::mdp {

enum class Set { l1, interval, kl, chi2, contamination };

// The next states of one row, by increasing value
struct Outcome {
    double value, weight, low, high; // low, high: bounds of the weight, for interval sets
};

// The smallest sum of q value over all q in the set around the weights; sorts the outcomes. lowest: the smallest value
// to which mass may move; infinity: that of the outcomes.
double worst(Set set, std::vector<Outcome>& outcomes, double radius, double lowest);

// sign = -1: the best probabilities instead of the worst. radius (rows of entries); low, high (entries) or null
template <class T> struct RobustBackup {
    const T* v = nullptr;
    T* w = nullptr;
    int32_t* action = nullptr;
    Set set = Set::l1;
    const double* radius = nullptr;
    const T *low = nullptr, *high = nullptr;
    double sign = 1;
    bool anywhere = false; // mass may move to any state, not only to the next states of the row
};
template <class T> Span robust_backup(const Process<T>&, const RobustBackup<T>&);

// For sets in which all actions of a state share a budget, sum over a of |q_a - p_a|_1 <= radius (states): writes the
// value, and the probabilities of the actions to mixture (rows).
template <class T> Span shared_backup(const Process<T>&, const T* v, T* w, const double* radius, double* mixture);

} // namespace fastiter::mdp
