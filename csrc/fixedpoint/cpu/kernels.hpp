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
enum class Verdict : uint8_t { go_on, converged, nan, overflow, grown, stale, rounded, vanishing };

// The history of a sample's residuals, for the verdicts of a Judge. Zeros, at first or after a restart, begin anew.
struct Track {
    double checks = 0;     // the residuals so far
    double unimproved = 0; // those since the last progress: a new least residual, or a new least `ratio`
    double turns = 0;      // the changes between rise and fall since then
    double reached = 0;    // the residuals until then
    double from = 0;       // the residual then
    double ratio = 0; // the least ||r|| / scale, by more than kGain; the scale is the largest of those with progress
    double scale = 0; // that scale
    double last = 0;  // the last residual; negative if it had not risen
    double first = 0; // the larger of the first residual and scale; 0 once `vanishing` has been found
};
constexpr int64_t kTrack = sizeof(Track) / sizeof(double);

// Classifies rows by their residuals ||r|| and scales ||f||:
//
//   converged   residual <= atol + rtol scale
//   grown       residual > growth times that of the last progress
//   vanishing   once, after the first residual, if scale < rtol first: the fixed point may be 0
//   rounded     no progress for `patience` residuals, and residual <= kRounding eps scale
//   stale       no progress for `patience` residuals, nor for twice as many as it took to reach the last, while the
//               residual rises and falls by turns; if it does not, for 10 times as many as `patience`
//
// so that neither slow oscillations, nor one small residual among larger ones, nor a scale that first has to grow, end
// a sample that converges.
struct Judge {
    int64_t rows = 0;
    const int64_t* slot = nullptr; // (rows)
    double* residual = nullptr;    // (slots), of the current iterate
    double* scale = nullptr;       // (slots)
    double* best = nullptr;        // (slots): the smallest residual so far
    double* best_scale = nullptr;  // (slots): the scale there
    Track* track = nullptr;        // (slots)
    Verdict* verdict = nullptr;    // (rows)
    uint8_t* is_best = nullptr;    // (rows)
    double rtol = 0, atol = 0, growth = 0, eps = 0;
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

// The least relative decrease that counts as progress, of a residual below the best: rounding errors alone make it drift
// by less; and of a ratio
constexpr double kLess = 1e-9, kGain = 1e-3;
constexpr double kRounding = 64; // residuals of this many eps times the scale may be rounding errors
constexpr double kTurns = 8;     // a residual that turns once in so many steps oscillates slowly
constexpr double kSlow = 10;

// Records a residual; returns whether the sample has been without progress for too long.
__attribute__((always_inline)) inline bool is_stuck(Track& t, double residual, double scale, double best,
                                                    double patience) {
    const bool is_first = t.checks == 0;
    t.checks += 1;
    t.unimproved += 1;
    if (!(residual < __builtin_inf() && scale < __builtin_inf())) return false;
    const double last = t.last < 0 ? -t.last : t.last, widest = scale > t.scale ? scale : t.scale;
    const bool rises = residual > last;
    if (is_first) t.first = residual > scale ? residual : scale;
    t.turns += rises != (t.last > 0) || residual == last;
    t.last = rises ? residual : -residual;
    const bool gains = is_first || residual / widest < (1 - kGain) * t.ratio;
    if (gains) {
        t.ratio = residual / widest;
        t.scale = widest;
    }
    if (gains || residual < (1 - kLess) * best) {
        t.unimproved = t.turns = 0;
        t.reached = t.checks;
        t.from = residual;
    }
    const bool oscillates = t.turns * kTurns >= t.unimproved;
    return t.unimproved >= patience && t.unimproved >= 2 * t.reached &&
           (oscillates || t.unimproved >= kSlow * patience);
}

// Classifies each row separately and returns how many verdicts are not go_on. Always inlined, as kernels and bindings
// call it.
__attribute__((always_inline)) inline int64_t judge_rows(const Judge& p) {
    int64_t stopped = 0;
    const double smallest = p.rtol > p.eps ? p.rtol : p.eps;
    for (int64_t i = 0; i < p.rows; ++i) {
        const int64_t s = p.slot[i];
        const double residual = p.residual[s], scale = p.scale[s], limit = p.atol + p.rtol * scale;
        const bool improves = residual < p.best[s];
        Track& t = p.track[s];
        const bool stuck = is_stuck(t, residual, scale, p.best[s], double(p.patience));
        const bool rounded = t.unimproved >= double(p.patience) && residual <= kRounding * p.eps * scale;
        Verdict verdict = Verdict::go_on;
        if (residual <= limit && limit < __builtin_inf())
            verdict = Verdict::converged;
        else if (residual != residual || scale != scale)
            verdict = Verdict::nan;
        else if (residual == __builtin_inf() || scale == __builtin_inf())
            verdict = Verdict::overflow;
        else if (t.checks > 1 && scale < smallest * t.first) {
            verdict = Verdict::vanishing;
            t.first = 0;
        } else if (residual > p.growth * t.from)
            verdict = Verdict::grown;
        else if (rounded || stuck)
            verdict = rounded ? Verdict::rounded : Verdict::stale;
        p.best[s] = improves ? residual : p.best[s];
        p.best_scale[s] = improves ? scale : p.best_scale[s];
        p.is_best[i] = improves;
        p.verdict[i] = verdict;
        stopped += verdict != Verdict::go_on;
    }
    return stopped;
}

} // namespace fastiter::fixedpoint
