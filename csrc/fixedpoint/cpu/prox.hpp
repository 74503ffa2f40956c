// Proximal operators and projections that need an iteration of their own. An array (outer, size, inner), contiguous, holds
// outer * inner groups of `size` numbers, each with stride `inner`:
//
//   simplex          argmin |x - y| over x >= 0, sum x = parameter:  x = max(y - tau, 0)
//   l1_ball          argmin |x - y| over sum |x| <= parameter:       x = sign(y) max(|y| - tau, 0)
//   softmax_entropy  parameter (1 + log x) + (1 - parameter) x = y + nu, sum x = 1
//   entropy          parameter (1 + log x) + x = y, number by number
//
// tau and nu are roots of monotone functions, found by Newton's method to rounding. A group whose numbers have no such x,
// as one is NaN, is NaN. A group's result depends on nothing but the group, so that it has the same bits for every
// number of threads and of groups.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(fixedpoint)

namespace fastiter::fixedpoint {

enum class Prox { simplex, l1_ball, softmax_entropy, entropy };
constexpr int kProx = 4;

// out may be y. workspace: `bytes` of the table for each thread
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
