// Updates of modern Hopfield networks. A problem has S stored patterns x_s of D numbers, L queries and an inverse
// temperature beta; an update of a query is
//
//   z_s = beta (x_s . xi) + bias_s        p = softmax(z)        xi <- sum over s of p_s x_s
//
// A problem is a pair (batch, head). A query stops when its update changes it by at most atol + rtol ||xi||. All sums
// of a query are computed in a fixed order by one thread, so that results do not depend on the number of threads or on
// the other queries.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstddef>

FASTITER_FAMILY(fixedpoint)

namespace fastiter::fixedpoint {

struct HopfieldShape {
    int64_t batch = 0, heads = 0, L = 0, S = 0, D = 0;
    int64_t problems() const { return batch * heads; }
};

// Contiguous vectors of D numbers, by (batch, head, row)
template <class T> struct Vectors {
    T* data = nullptr;
    int64_t batch = 0, head = 0, row = 0;
};

// Bias added to the scaled products, by (batch, head, query, pattern); null: no bias
template <class T> struct Bias {
    const T* data = nullptr;
    int64_t batch = 0, head = 0, query = 0, pattern = 0;
};

template <class T> struct HopfieldProblem {
    HopfieldShape shape;
    Vectors<const T> stored;
    Bias<T> bias;
    const T* beta = nullptr; // (batch, head)
};

// Values that each update saves for the gradient: the largest z, and 1 / sum of exp(z - largest); both 0 if no pattern
// is left
template <class T> struct Softmax {
    T *largest = nullptr, *inverse = nullptr; // (step, batch, head, query)
};

template <class T> struct HopfieldUpdate {
    HopfieldProblem<T> problem;
    Vectors<const T> state;
    bool stops = true; // false: every query makes max_steps updates
    double rtol = 0, atol = 0;
    int64_t max_steps = 0;
    Vectors<T> value;
    uint8_t* converged = nullptr; // (batch, head, query), like the next two
    int64_t* steps = nullptr;
    T* residual = nullptr;
    T* states =
        nullptr; // (max_steps + 1, batch, head, query, D): before the first and after each update; null: not kept
    Softmax<T> softmax;
    int64_t chunk = 0; // queries that a thread processes at a time
    void* workspace = nullptr;
};

// The gradient through all updates. `gradient`, with respect to the last states, is overwritten by that of the first
// states. gradient (batch, head, query, D), dstored (batch, head, pattern, D), dbeta (batch, head)
template <class T> struct HopfieldGradient {
    HopfieldProblem<T> problem;
    const T* states = nullptr; // as saved by the updates
    Softmax<T> softmax;
    const int64_t* steps = nullptr;
    T *gradient = nullptr, *dstored = nullptr, *dbeta = nullptr;
    void* workspace = nullptr;
};

// The gradient at fixed points: conjugate gradients solve u = gradient + J u for each query, where J is the symmetric
// Jacobian of its update, to ||gradient + J u - u|| <= rtol ||gradient||; u then flows back through one update.
template <class T> struct HopfieldAdjoint {
    HopfieldProblem<T> problem;
    const T* states = nullptr; // (batch, head, query, D)
    const T* gradient = nullptr;
    double rtol = 0;
    int64_t max_steps = 0;
    T *dstored = nullptr, *dbeta = nullptr;
    T* residual = nullptr; // (batch, head, query), relative to the gradient
    void* workspace = nullptr;
};

// Queries whose contributions to dstored and dbeta are summed in sequence; the sums of several chunks are then added in
// order.
constexpr int64_t kHopfieldChunk = 256;

template <class T> struct HopfieldTable {
    size_t (*workspace)(const HopfieldUpdate<T>&, int threads);
    void (*update)(const HopfieldUpdate<T>&, Team);
};
using HopfieldKernels = ByType<HopfieldTable<float>, HopfieldTable<double>>;

template <class T> struct HopfieldGradientTable {
    size_t (*gradient_workspace)(const HopfieldGradient<T>&, int threads);
    void (*gradient)(const HopfieldGradient<T>&, Team);
    size_t (*adjoint_workspace)(const HopfieldAdjoint<T>&, int threads);
    void (*adjoint)(const HopfieldAdjoint<T>&, Team);
};
using HopfieldGradientKernels = ByType<HopfieldGradientTable<float>, HopfieldGradientTable<double>>;

FASTITER_TABLE(HopfieldKernels, hopfield_kernels)
FASTITER_TABLE(HopfieldGradientKernels, hopfield_gradient_kernels)

} // namespace fastiter::fixedpoint
