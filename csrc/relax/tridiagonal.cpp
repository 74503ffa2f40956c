#include "relax/tridiagonal.hpp"
#include <cmath>
#include <limits>

namespace fastiter::relax {

namespace {

// Maximum number of steps per eigenvalue; two or three suffice.
constexpr int kMaxSteps = 60;

// The end of the block that begins at `from`: the first off-diagonal element that is 0 to rounding
int64_t end_of_block(int64_t n, int64_t from, const double* diagonal, const double* off) {
    constexpr double kEps = std::numeric_limits<double>::epsilon();
    int64_t end = from;
    while (end < n - 1 && !(std::abs(off[end]) <= kEps * (std::abs(diagonal[end]) + std::abs(diagonal[end + 1]))))
        ++end;
    return end;
}

// A QL step on the block from `low` to `high` with a shift: rotations of neighbouring rows, from the last pair to the
// first
void ql_step(int64_t low, int64_t high, double* diagonal, double* off, double* first) {
    double g = (diagonal[low + 1] - diagonal[low]) / (2 * off[low]);
    g = diagonal[high] - diagonal[low] + off[low] / (g + std::copysign(std::hypot(g, 1.0), g));
    double sine = 1, cosine = 1, p = 0;
    for (int64_t i = high - 1; i >= low; --i) {
        const double f = sine * off[i], b = cosine * off[i];
        double r = std::hypot(f, g);
        off[i + 1] = r;
        if (r == 0) { // the block has split
            diagonal[i + 1] -= p;
            off[high] = 0;
            return;
        }
        sine = f / r;
        cosine = g / r;
        g = diagonal[i + 1] - p;
        r = (diagonal[i] - g) * sine + 2 * cosine * b;
        p = sine * r;
        diagonal[i + 1] = g + p;
        g = cosine * r - b;
        const double upper = first[i + 1];
        first[i + 1] = sine * first[i] + cosine * upper;
        first[i] = cosine * first[i] - sine * upper;
    }
    diagonal[low] -= p;
    off[low] = g;
    off[high] = 0;
}

} // namespace

bool eigenvalues_of_tridiagonal(int64_t n, double* diagonal, double* off, double* first) {
    for (int64_t i = 0; i < n; ++i) first[i] = i == 0;
    for (int64_t low = 0; low < n; ++low) {
        int64_t high = end_of_block(n, low, diagonal, off);
        for (int step = 0; high != low; ++step) {
            if (step == kMaxSteps) return false;
            ql_step(low, high, diagonal, off, first);
            high = end_of_block(n, low, diagonal, off);
        }
    }
    return true;
}

} // namespace fastiter::relax
