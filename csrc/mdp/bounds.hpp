// Bounds on the optimal values that hold in floating-point arithmetic; docs/mdp/bounds.md derives the formulas.
#pragma once
#include "mdp/cpu/kernels.hpp"

namespace fastiter::mdp {

// Bounds on V* after a sweep w = T v: w + low - rounding <= V* <= w + high + rounding, before these sums are rounded,
// which `rounding` includes, as it does the rounding of the values to their type.
struct Bounds {
    double low = 0, high = 0, rounding = 0;
    double floor = 0; // a width, high - low, from which on more sweeps from these values do not pay

    double width() const { return high - low + 2 * rounding; }
};

// All that the errors of a sweep depend on, except the values
class Accuracy {
public:
    // low, high: bounds on the sums of the rows, whose exact values they enclose; reward: the largest |reward|;
    // longest: the largest number of entries in a row
    Accuracy(bool is_double, double discount, double low, double high, double reward, int64_t longest);

    // The relative error of an operator beyond the rounding of sums, the absolute error of the rewards, and the largest
    // |base| of a solution base + V
    double inexact = 0, doubt = 0, base = 0;

    // The smallest and the largest factor by which T multiplies a constant
    double low() const { return low_; }
    double high() const { return high_; }
    // Bounds on V* from the least and the largest w - v, and the largest |w|
    Bounds bounds(Span change, double size) const;
    // The width of bounds from symmetric ones, for the largest |w - v|
    double symmetric(double error) const { return 2 * error * high_ / below_; }
    // A bound on |w - T v| for |v| <= before and |w| <= size
    double sweep_error(double before, double size) const;
    // An estimate of `floor` for the largest values that the rewards allow
    double reachable() const;

private:
    double later(double change, bool is_wide) const;

    double low_, high_;    // discount times the sums
    double below_, above_; // 1 - high_ and 1 - low_, to the last bit
    double reward_, unit_,
        smallest_; // unit_: of rounding to float, 0 for double; smallest_: the smallest positive number
    double entries_;
};

// Whether only rounding errors remain of a width, after `unimproved` steps without a smaller one
bool is_rounding(double width, double floor, int64_t unimproved);

// The rewards of corrections to given values: V* = base + E*, where E* are the optimal values of the same process with
// the rewards r + discount P base - base(s). Writes these rewards, computed with about twice the precision of double,
// and -most in place of smaller ones; returns a bound on the error of the others. base (states) is 0 in terminal
// states. For |E*| <= most / 4, rows with smaller rewards are never the best of their states, so that E* stays the
// same.
template <class T> double corrections(const Process<T>&, const double* base, T limit, T* reward);

} // namespace fastiter::mdp
