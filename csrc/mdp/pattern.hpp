// The graph of a decision process: validation, predecessors, and the order of states from the terminal ones.
#pragma once
#include "mdp/cpu/kernels.hpp"
#include <cstdint>

namespace fastiter::mdp {

enum class Fault { none, pointers, next, negative, sum, reward };

struct Checked {
    Fault fault = Fault::none;
    int64_t row = 0;          // the first row with the fault
    double value = 0;         // a next state, a weight, a sum or a reward
    double low = 0, high = 0; // the least and the largest sum of a row's weights of states that are not terminal
};

// Checks all rows: indices, finite weights that are not negative, sums within `tolerance` of 1 (if it is not negative),
// finite rewards.
template <class T> Checked check_process(const Process<T>&, int64_t rows, int64_t entries, double tolerance);

// The predecessors of each state: each once, from rows with a positive weight. start (states + 1); before null: only
// counts. Returns the number of predecessors in all.
template <class T> int64_t predecessors(const Process<T>&, int64_t* start, int32_t* before);

// The states by increasing distance to those of `is_goal`, by number at equal distance; returns how many reach one.
// order (states)
int64_t order_from(int64_t states, const int64_t* start, const int32_t* before, const uint8_t* is_goal, int32_t* order);

// is_absorbing (states): 1 where all rows stay in the state with weight, but without the reward where `idle` asks for 0
template <class T> void absorbing(const Process<T>&, bool idle, uint8_t* is_absorbing);

} // namespace fastiter::mdp
