// Projections of n discrete distributions onto fixed atoms or fixed probabilities.
#pragma once
#include <cstdint>

namespace fastiter::mdp {

// Splits the mass p at x between the two neighbouring atoms z (m, ascending) by linear interpolation; mass beyond the
// ends goes to the end atom. p, x (n, k), out (n, m)
void project_categorical(int64_t n, int64_t k, const double* p, const double* x, int64_t m, const double* z,
                         double* out);

// out (n, m): the means of x over m equal parts of the probability, in ascending order
void project_quantile(int64_t n, int64_t k, const double* p, const double* x, int64_t m, double* out);

} // namespace fastiter::mdp
