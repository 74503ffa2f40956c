// The graph of a decision process: validation, predecessors, and the order of states by distance from the terminal
// ones.
#pragma once
#include "mdp/cpu/kernels.hpp"
#include <cstdint>

namespace fastiter::mdp {

enum class Fault { none, pointers, next, negative, sum, reward };

struct Checked {
    Fault fault = Fault::none;
    int64_t row = 0;          // the first invalid row; of an invalid reward the pair
    double value = 0;         // the invalid next state, weight, sum or reward
    double low = 0, high = 0; // bounds on the exact sums of the rows' weights into nonterminal states
};

// Checks all rows: valid indices, finite nonnegative weights, sums within `tolerance` of 1 (unless it is negative),
// and finite rewards of all pairs.
template <class T>
Checked check_process(const Process<T>&, int64_t rows, int64_t pairs, int64_t entries, double tolerance);

// The predecessors of each state, each once, by entries with a positive weight. start (states + 1); before null: only
// counts. Returns the total number of predecessors.
template <class T> int64_t predecessors(const Process<T>&, int64_t* start, int32_t* before);

// Sorts the states by increasing distance to those in `is_goal`, ties by index; returns the number of states that reach
// one. order (states)
int64_t order_from(int64_t states, const int64_t* start, const int32_t* before, const uint8_t* is_goal, int32_t* order);

// Whether no entry leads further than `width` from its state.
template <class T> bool is_banded(const Process<T>&, int64_t width);

// is_absorbing (states): 1 if all entries of positive weight in a state's rows lead back to it; with `idle`, only if
// all its rewards are 0 as well
template <class T> void absorbing(const Process<T>&, bool idle, uint8_t* is_absorbing);

} // namespace fastiter::mdp
