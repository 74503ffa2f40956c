// The work that a solver still has to do, predicted from its residuals.
#pragma once
#include <cstdint>

namespace fastiter::mdp {

// Returns how many more steps of the same kind are needed, judged by the later half of the residuals so far; infinity
// if they do not fall. They fall either by the same factor in each step or, while changes spread from state to state, by
// the same amount; in that case as many steps again are added for the end.
double steps_left(const double* history, int64_t count, double atol);

// When steps are judged, and left to other methods
struct Judgement {
    int64_t first = 0;   // the number of steps after which they are judged; 0: never
    double overhead = 0; // the fixed cost of all steps together, in steps
    double needed = 0;   // they are left if the remaining ones exceed this multiple of those so far
    double rate = 0;     // the least decrease of the logarithm of the residual in a step
};

// Returns the number of steps after which to judge again, 0 to leave.
int64_t next_judgement(const Judgement&, const double* history, int64_t count, double atol);

// The smaller of `steps_left` and the number of steps that the least decrease takes
double steps_left(const Judgement&, const double* history, int64_t count, double atol);

} // namespace fastiter::mdp
