// Proximal operators and projections that need an iteration. A contiguous array (outer, size, inner) holds
// outer * inner groups of `size` numbers, each with stride `inner`:
//
//   simplex          argmin |x - y| over x >= 0, sum x = parameter:  x = max(y - tau, 0)
//   l1_ball          argmin |x - y| over sum |x| <= parameter:       x = sign(y) max(|y| - tau, 0)
//   softmax_entropy  parameter (1 + log x) + (1 - parameter) x = y + nu, sum x = 1
//   entropy          parameter (1 + log x) + x = y, elementwise
//
// tau and nu are roots of monotone functions, found by Newton's method to rounding. A group that has no solution, for
// instance because it contains NaN, becomes NaN. The result of a group depends on that group only, so that it has the
// same bits for any number of threads and of groups.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(fixedpoint)

namespace fastiter::fixedpoint {

enum class Prox { simplex, l1_ball, softmax_entropy, entropy };
constexpr int kProx = 4;

// out may alias y. workspace: `bytes` bytes for each thread, as the table reports
template <class T> struct Groups {
    const T* y = nullptr;
    T* out = nullptr;
    int64_t outer = 0, size = 0, inner = 0;
    double parameter = 1;
    void* workspace = nullptr;
    int64_t bytes = 0;
};

template <class T> struct ProxOf {
    void (*run[kProx])(const Groups<T>&, Team);
    int64_t (*bytes)(const Groups<T>&);
};

using ProxKernels = ByType<ProxOf<float>, ProxOf<double>>;

FASTITER_TABLE(ProxKernels, prox_kernels)

} // namespace fastiter::fixedpoint
