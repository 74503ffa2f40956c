// The Sinkhorn iteration in the log domain, for a batch of problems of the same shape:
//
//   f_i <- epsilon (log a_i - log sum_j exp((g_j - C_ij) / epsilon)),   g_j <- the same over i with b and f
//
// After each update of g the columns of the plan P = exp((f + g - C) / epsilon) sum to b; the residual is the sum of
// |sum_j P_ij - a_i|. Every row and every vector of columns is computed by one thread, and residuals are added up in
// row order, so that results are bitwise the same for any number of threads.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(fixedpoint)

namespace fastiter::fixedpoint {

template <class T> struct Sinkhorn {
    int64_t batch = 0, n = 0, m = 0;
    const T* cost = nullptr;  // (batch, n, m)
    const T* log_a = nullptr; // (batch, n)
    const T* log_b = nullptr; // (batch, m)
    T* f = nullptr;           // (batch, n): the initial values, overwritten by the result
    T* g = nullptr;           // (batch, m)
    double epsilon = 1;
    const double* tolerance = nullptr; // (batch)
    int64_t max_steps = 0;             // updates of f
    int64_t* steps = nullptr;          // (batch)
    double* residual = nullptr;        // (batch)
    uint8_t* ended = nullptr;          // (batch): whether the residual is within the tolerance
    double* workspace = nullptr;       // (batch, n) residuals of the rows, then (batch, n) of T for the next f
};

template <class T> struct SinkhornOf {
    void (*solve)(const Sinkhorn<T>&, Team);
};

using Sinkhorns = ByType<SinkhornOf<float>, SinkhornOf<double>>;

FASTITER_TABLE(Sinkhorns, sinkhorns)

} // namespace fastiter::fixedpoint
