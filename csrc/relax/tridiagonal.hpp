// Eigenvalues of a small symmetric tridiagonal matrix, for the Lanczos method.
#pragma once
#include <cstdint>

namespace fastiter::relax {

// The implicit QL method with Wilkinson's shifts (Golub and Welsch): on return `diagonal` (n) holds the eigenvalues,
// unsorted, and `first` (n) the first component of each eigenvector. `off` (n) holds the n - 1 off-diagonal elements
// and space for one more, and is overwritten. Returns false if it does not converge, for instance because of nonfinite
// numbers.
bool eigenvalues_of_tridiagonal(int64_t n, double* diagonal, double* off, double* first);

} // namespace fastiter::relax
