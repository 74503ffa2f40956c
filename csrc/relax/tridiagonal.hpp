// Eigenvalues of a small symmetric tridiagonal matrix, as Lanczos' method needs them.
#pragma once
#include <cstdint>

namespace fastiter::relax {

// The implicit QL method with Wilkinson's shifts (Golub and Welsch): on return `diagonal` (n) has the eigenvalues, in no
// order, and `first` (n) the first component of each eigenvector. `off` (n) has n - 1 elements beside the diagonal and
// room for one more, and is overwritten. Returns false if it does not converge, as with numbers that are not finite.
bool eigenvalues_of_tridiagonal(int64_t n, double* diagonal, double* off, double* first);

} // namespace fastiter::relax
