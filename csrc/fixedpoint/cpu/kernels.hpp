// Steps of fixed-point methods on a batch of samples, of which some rows are still active: row i of x and f belongs to
// sample slot[i], whose history never moves. x, f = f(x) and next are (rows, n) and contiguous; r = f - x.
//
// Sums of products are taken over chunks of kChunk numbers in a fixed order and added up in double, so that results
// are bitwise the same for any number of threads.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(fixedpoint)

namespace fastiter::fixedpoint {

constexpr int64_t kChunk = 4096; // numbers of a row that one thread takes at once
constexpr int64_t kMemory = 32;  // the most differences that a method keeps

inline int64_t chunks_of(int64_t n) { return n <= kChunk ? 1 : (n + kChunk - 1) / kChunk; }

// One step of Anderson's method, with g = x + beta r and the differences dr, dg of successive r and g:
//
//   next = g - sum over i of c_i dg_i,   c = argmin ||r - sum c_i dr_i||^2 + ridge sum (c_i ||dr_i||)^2      type II
//   next as above,                       c solves sum_j (dx_i.dr_j + ridge_ij) c_j = dx_i.r                  type I
//
// with dx = dg - beta dr, and in type I the ridge added to the diagonal after the rows and columns are scaled to 1.
// A column that depends on the others up to rounding gets c = 0, and so do all if a c is not finite.
template <class T> struct AndersonStep {
    int64_t rows = 0, n = 0, m = 0;
    const int64_t* slot = nullptr; // (rows)
    const T* x = nullptr;
    const T* f = nullptr;
    T* next = nullptr;                // apart from x and f
    T* last_r = nullptr;              // (slots, n)
    T* last_g = nullptr;              // (slots, n)
    T* dr = nullptr;                  // (slots, m, n), a ring
    T* dg = nullptr;                  // (slots, m, n)
    double* gram = nullptr;           // (slots, m, m): dr_i.dr_j, in type I dx_i.dr_j
    int64_t* pushed = nullptr;        // (slots): differences so far; -1: no iterate yet
    const uint8_t* restart = nullptr; // (rows): whether to forget the history first; null: none
    double beta = 1, ridge = 0;
    bool type_one = false;
    double* workspace = nullptr; // (rows, chunks + 1, 5 m)
};

template <class T> struct KernelsOf {
    void (*anderson)(const AndersonStep<T>&, Team);
};

using Kernels = ByType<KernelsOf<float>, KernelsOf<double>>;

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::fixedpoint
