// Projections of discrete distributions, one for each of n lines, onto fixed atoms or fixed probabilities.
#pragma once
#include <cstdint>

namespace fastiter::mdp {

// p, x (n, k): the mass p at x goes to the neighbours among the rising atoms z (m), in proportion to their nearness;
// beyond the ends to the end. out (n, m)
void project_categorical(int64_t n, int64_t k, const double* p, const double* x, int64_t m, const double* z,
                         double* out);

// out (n, m): the means of x over the m equal parts of the probability, in rising order
void project_quantile(int64_t n, int64_t k, const double* p, const double* x, int64_t m, double* out);

} // namespace fastiter::mdp
