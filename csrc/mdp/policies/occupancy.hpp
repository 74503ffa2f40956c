// The expected visits of states under a stochastic policy, over a number of steps, and their gradients. With the shares
// pi_i of the pairs i of state s, and the rows x_i of these pairs,
//
//   m_0 = start       y_t(x) = sum over the pairs of x of pi_i m_t(s_i)       m_t+1 = discount * P^T y_t
//
// and total = m_0 + .. + m_(horizon - 1). For the gradient g of a function of the total, with L_0 = g and
// L_n+1 = g + discount * sum over the pairs of s of pi_i (P L_n)(x_i), the gradients are L_(horizon - 1) for start, and
// discount times sums over n + t = horizon - 2 of m_t(s_i) (P L_n)(x_i) for pi_i and of y_t(x) L_n(next) for the entries
// of P. All sums are in an order that does not depend on the number of threads.
#pragma once
#include "mdp/cpu/kernels.hpp"

namespace fastiter::mdp {

// policy (pairs), total and start (states), history (horizon, states): m_t, null if it is not needed
template <class T> struct Visits {
    const T *policy = nullptr, *start = nullptr;
    int64_t horizon = 1;
    T *total = nullptr, *history = nullptr;
};
template <class T> void visit(const Process<T>&, const Visits<T>&);

// Gradients of start (states), of the shares (pairs) and of the entries, the latter two without the factor discount;
// weight null: not needed
template <class T> struct VisitGradients {
    const T *policy = nullptr, *history = nullptr, *total = nullptr;
    int64_t horizon = 1;
    T *start = nullptr, *share = nullptr, *weight = nullptr;
};
template <class T> void visit_gradients(const Process<T>&, const VisitGradients<T>&);

} // namespace fastiter::mdp
