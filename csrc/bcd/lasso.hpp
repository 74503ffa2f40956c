// The lasso with working sets: coordinate descent on the residual, and Newton steps in the support where their cost,
// counted beforehand, has already been spent on sweeps.
#pragma once
#include "bcd/matrix.hpp"

namespace fastiter::bcd {

// ||A x - b||^2 / 2 + l1 |x|_1 + l2 |x|^2 / 2, with x >= 0 if `nonnegative`. With `ones`, b and the columns are those
// of the problem after a multiple of `ones` has been subtracted that makes them orthogonal to it; A is unchanged.
struct LassoProblem {
    const Matrix* a = nullptr;
    const double* b = nullptr;       // (n), orthogonal to `ones`
    const double* ones = nullptr;    // (n); null: not centred
    const double* squares = nullptr; // (m) squares of the columns as they are; not used with `ones`
    double l2 = 0;
    bool nonnegative = false;
};

struct LassoEnd {
    double gap = 0, objective = 0;
    int64_t steps = 0; // working sets
};

// The Gram matrix of columns that have been in a support, in the order in which they came
class Grams {
public:
    Grams(const Matrix& a, const double* mean, double total);
    double work(const List& columns) const; // operations that `add` needs for those that are missing
    bool fits(const List& columns) const;   // whether it takes memory in proportion to that of A
    void add(const List& columns, Vector& buffer);
    void matrix(const List& columns, double l2, Vector& h) const; // the lower triangle of their part, plus l2

private:
    const Matrix& a_;
    const double* mean_;
    double total_, limit_;
    std::vector<Vector> rows_; // row k has its products with members 0 to k
    List members_, place_;     // and the place of each column among the members, or -1
    double entries_ = 0;       // entries of all members
};

// The lower triangle h (m + 1, m + 1) of the Cholesky factor of [A b]' [A b], with zeros above; false: not positive
// definite, or stopped.
bool reduce(const Matrix& a, const double* b, double* h, const Team& team);

class Lasso {
public:
    Lasso(const LassoProblem& problem, double* x);

    // Starts from the present x (m).
    void start();
    // Minimises for one l1 with at most `max_steps` working sets, until the duality gap is at most the tolerance.
    LassoEnd solve(double l1, double tolerance, int64_t max_steps, const Team& team);
    double largest_slope(); // the smallest l1 for which 0 is the solution, if x is 0

private:
    void products(const List& columns, Vector& out) const; // products of columns with the residual
    double rising(int64_t j) const {
        return p_.nonnegative ? -g_[size_t(j)] : (g_[size_t(j)] < 0 ? -g_[size_t(j)] : g_[size_t(j)]);
    }
    double work(int64_t j) const;
    double work(const List& columns) const;
    void centre();
    void refresh(double l1);
    double gap(double l1, double& objective) const;
    double squares_of_residual(const Vector& v, double sum) const;
    double value(double l1, const List& columns, const double* x, const Vector& v, double sum) const;
    List violators(double l1) const;
    double slope_for(double l1, double gap) const;
    double descend(double l1, double target, double last, int64_t step, List entrants);
    bool enter(double l1, List entrants);
    bool is_solved(double l1, const List& columns);
    double sweep(double l1, const List& columns);
    double descend_support(double l1, double target, int64_t max_sweeps);
    void add_column(int64_t j, double d, Vector& v, double& sum) const;
    // acceleration, lasso_steps.cpp
    void remember(const List& support);
    void extrapolate(double l1, const List& support);
    bool newton(double l1, const List& support);
    bool try_step(double l1, const List& support, const Vector& d, double share);
    double newton_work(const List& support) const;

    LassoProblem p_;
    double* x_;
    Vector mean_, squares_, curvature_, inverse_; // means, squares and curvatures of the centred columns
    double total_ = 0, norm_ = 0;                 // ones . ones, b . b
    Vector v_, before_;             // the residual plus a multiple of `ones`; the residual at the last check
    double sum_ = 0;                // ones . v
    Vector g_, computed_at_;        // products with the residual, and the value of `moved_` when they were computed
    double moved_ = 0;              // length of the path of the residual
    double refreshed_ = 0;          // operations of the last refresh
    double round_ = 0, budget_ = 0; // operations of sweeps over the support of this working set, and their limit
    List used_, working_, support_, stale_; // used_: columns that are not 0
    double last_gap_ = 0;
    Vector fresh_;
    int64_t changes_ = 0; // coordinates that reached or left 0 in the last sweep
    double spent_ = 0, reluctance_ = 1;
    Grams grams_;
    Vector h_;
    std::vector<Vector> points_, residuals_; // points of the last sweeps over one support
    Vector sums_;
    const Team* team_ = nullptr;
    bool is_stopped_ = false, is_last_ = false; // is_last: the working set hardly changes any more
};

} // namespace fastiter::bcd
