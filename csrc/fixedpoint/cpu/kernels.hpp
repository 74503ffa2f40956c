// Steps of fixed-point methods on a batch of samples, some of which are still active: row i of x and f belongs to
// sample slot[i], whose history is never moved. x, f = f(x) and next are (rows, n) and contiguous; r = f - x.
//
// Sums of products are computed over chunks of kChunk numbers in a fixed order and added up in double, so that results
// are bitwise the same for any number of threads.
#pragma once
#include "core/cpu/bf16.hpp"
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(fixedpoint)

namespace fastiter::fixedpoint {

constexpr int64_t kChunk = 4096; // numbers of a row that a thread processes at a time
constexpr int64_t kMemory = 32;  // maximum number of differences that a method keeps

inline int64_t chunks_of(int64_t n) { return n <= kChunk ? 1 : (n + kChunk - 1) / kChunk; }

// One step of Anderson's method, with g = x + beta r and the differences dr, dg of successive r and g:
//
//   next = g - sum over i of c_i dg_i,   c = argmin ||r - sum c_i dr_i||^2 + ridge sum (c_i ||dr_i||)^2      type II
//   next as above,                       c solves sum_j (dx_i.dr_j + ridge_ij) c_j = dx_i.r                  type I
//
// with dx = dg - beta dr; in type I the ridge is added to the diagonal after scaling rows and columns to a unit
// diagonal. A column that depends linearly on the others up to rounding gets c = 0; all c are 0 if any is not finite.
// H: the type of the history, T or a narrower one, to which differences are rounded.
template <class T, class H = T> struct AndersonStep {
    int64_t rows = 0, n = 0, m = 0;
    const int64_t* slot = nullptr; // (rows)
    const T* x = nullptr;
    const T* f = nullptr;
    T* next = nullptr;                // must not overlap x or f
    T* last_r = nullptr;              // (slots, n)
    T* last_g = nullptr;              // (slots, n)
    H* dr = nullptr;                  // (slots, m, n), a ring buffer
    H* dg = nullptr;                  // (slots, m, n)
    double* gram = nullptr;           // (slots, m, m): dr_i.dr_j, in type I dx_i.dr_j
    int64_t* pushed = nullptr;        // (slots): k differences so far; -1 - k: no previous iterate
    const uint8_t* restart = nullptr; // (rows): whether to forget the history first; null: none
    double beta = 1, ridge = 0;
    bool type_one = false;
    double* workspace = nullptr; // (rows, chunks + 1, 5 m)
};

// One step of the good Broyden method, limited to the last m updates of the inverse H of the Jacobian of r:
//
//   s = x - last_x,  y = r - last_r,  v = H^T s,  u = (s - H y) / v.y,  H <- H + u v^T,   next = x - H r
//
// with H = -beta I at first. The oldest update is dropped before the new one is computed, so that H y = s holds. An
// update whose v.y is 0 up to rounding, or not finite, is skipped.
template <class T> struct BroydenStep {
    int64_t rows = 0, n = 0, m = 0;
    const int64_t* slot = nullptr; // (rows)
    const T* x = nullptr;
    const T* f = nullptr;
    T* next = nullptr;                // must not overlap x or f
    T* last_x = nullptr;              // (slots, n)
    T* last_r = nullptr;              // (slots, n)
    T* u = nullptr;                   // (slots, m, n), a ring buffer
    T* v = nullptr;                   // (slots, m, n)
    int64_t* pushed = nullptr;        // (slots): k updates so far; -1 - k: no previous iterate
    const uint8_t* restart = nullptr; // (rows): whether to forget the history first; null: none
    double beta = 1;
    double* workspace = nullptr; // (rows, chunks + 1, 3 m + 4)
};

enum class Norm { l2, inf, rms, span };
enum class Verdict : uint8_t { go_on, converged, nan, overflow, grown, stale };

// Classifies rows by their residuals ||r|| and scales ||f||: converged if residual <= atol + rtol scale; grown if
// residual > growth best; stale after `patience` residuals that were not below the best.
struct Judge {
    int64_t rows = 0;
    const int64_t* slot = nullptr; // (rows)
    double* residual = nullptr;    // (slots), of the current iterate
    double* scale = nullptr;       // (slots)
    double* best = nullptr;        // (slots): the smallest residual so far
    double* best_scale = nullptr;  // (slots): the scale there
    int64_t* since = nullptr;      // (slots): residuals since the best one
    Verdict* verdict = nullptr;    // (rows)
    uint8_t* is_best = nullptr;    // (rows)
    double rtol = 0, atol = 0, growth = 0;
    int64_t patience = 0;
};

// Computes the residual and scale of the rows in a norm, classifies the rows, and copies each x that is the best so
// far. The span of a vector is its largest minus its smallest element.
template <class T> struct Measure {
    Judge judge;
    int64_t n = 0;
    const T* x = nullptr; // (rows, n)
    const T* f = nullptr;
    T* best_x = nullptr; // (slots, n)
    Norm norm = Norm::l2;
    double* workspace = nullptr; // (rows, chunks, 4)
};

template <class T, class H> struct AndersonOf {
    void (*step)(const AndersonStep<T, H>&, Team);
};
template <class T> struct BroydenOf {
    void (*step)(const BroydenStep<T>&, Team);
};
template <class T> struct MeasureOf {
    void (*measure)(const Measure<T>&, Team);
};

using Anderson =
    ByType<AndersonOf<float, float>, AndersonOf<double, double>, AndersonOf<float, bf16>, AndersonOf<double, float>>;
using Broyden = ByType<BroydenOf<float>, BroydenOf<double>>;
using Measures = ByType<MeasureOf<float>, MeasureOf<double>>;

FASTITER_TABLE(Anderson, anderson_steps)
FASTITER_TABLE(Broyden, broyden_steps)
FASTITER_TABLE(Measures, measures)

// Classifies each row separately and returns how many verdicts are not go_on. Always inlined, as kernels and bindings
// call it.
__attribute__((always_inline)) inline int64_t judge_rows(const Judge& p) {
    int64_t found = 0;
    for (int64_t i = 0; i < p.rows; ++i) {
        const int64_t s = p.slot[i];
        const double residual = p.residual[s], limit = p.atol + p.rtol * p.scale[s];
        const bool improves = residual < p.best[s];
        Verdict verdict = Verdict::go_on;
        if (residual <= limit && limit < __builtin_inf())
            verdict = Verdict::converged;
        else if (residual != residual || p.scale[s] != p.scale[s])
            verdict = Verdict::nan;
        else if (residual == __builtin_inf() || p.scale[s] == __builtin_inf())
            verdict = Verdict::overflow;
        else if (residual > p.growth * p.best[s])
            verdict = Verdict::grown;
        else if (!improves && p.since[s] + 1 >= p.patience)
            verdict = Verdict::stale;
        p.since[s] = improves ? 0 : p.since[s] + 1;
        p.best[s] = improves ? residual : p.best[s];
        p.best_scale[s] = improves ? p.scale[s] : p.best_scale[s];
        p.is_best[i] = improves;
        p.verdict[i] = verdict;
        found += verdict != Verdict::go_on;
    }
    return found;
}

} // namespace fastiter::fixedpoint
