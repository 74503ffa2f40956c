// The rewards of corrections to given values: V* = base + E*, where E* are the optimal values of the same process with
// the rewards r + discount P base - base(s).
#pragma once
#include "mdp/cpu/kernels.hpp"

namespace fastiter::mdp {

// Writes these rewards, computed with about twice the precision of double, and -most in place of smaller ones; returns
// a bound on the error of the others. base (states) is 0 in terminal states. For |E*| <= most / 4, rows with smaller
// rewards are never the best of their states, so that E* stays the same.
template <class T> double corrections(const Process<T>&, const double* base, T most, T* reward);

} // namespace fastiter::mdp
