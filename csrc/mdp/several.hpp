// Solutions of many small processes in one call: each by one thread, with the stops and the bits that it has alone.
#pragma once
#include "mdp/model.hpp"
#include <vector>

namespace fastiter::mdp {

enum class How : uint8_t { vi, mpi, gs };
enum class Reason : uint8_t { converged, diverged, stagnated, max_steps };
enum class Order : uint8_t { ascending, descending, symmetric, given };

// What all models share
struct Rule {
    double discount = 1, tol = 0;
    bool sup = false; // the residual is that of the largest |change|, else that of MacQueen's bounds
    int64_t max_steps = 1, patience = 1, policy_sweeps = 0;
    double omega = 1;
    bool exact = true;
    Order order = Order::ascending;
    int64_t longest = 0; // the most entries of a row
};

// One model and the numbers of its own; values as T, which is that of the model
struct Item {
    Model* model = nullptr;
    How how = How::vi;
    void *v = nullptr, *w = nullptr; // (states): the first values, overwritten; w = T v at the end
    int32_t* action = nullptr;       // (states)
    const int32_t* order = nullptr;  // (states), where the order is given
    double low = 0, high = 0;        // the least and the largest sum of a row's weights, times the discount
    double largest_reward = 0;
};

struct Found {
    Span change;
    double residual = 0, rounding = 0;
    int64_t steps = 0;
    Reason reason = Reason::max_steps;
    std::vector<double> history;
};

// Throws after a request to stop.
template <class T> std::vector<Found> solve_each(const std::vector<Item>& items, const Rule& rule);

} // namespace fastiter::mdp
