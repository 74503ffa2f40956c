// Block coordinate descent: the state of a solve, the choice of a block and its update.
#pragma once
#include "bcd/matrix.hpp"

namespace fastiter::bcd {

enum class Loss { squares, logistic, softmax, quadratic };
enum class Update { gradient, matrix, newton, two_metric };
enum class Rule { sequence, gs, gsl, gsd, gsq };

// Coordinate c of a softmax with k classes is class c mod k of column c / k; all other losses have k = 1.
struct Problem {
    const Matrix* a = nullptr;
    Loss loss = Loss::squares;
    int64_t classes = 1;
    const double* b = nullptr;      // (n) targets, 0 or 1, or classes; (m) for a quadratic
    const double* weight = nullptr; // (n) weights of the losses; null: 1
    Separable s;                    // (coordinates)
    bool is_smooth = true;          // neither l1 nor bounds
    int64_t coordinates() const { return a->m * classes; }
};

struct Blocks {
    int64_t count = 0;               // 0: variable blocks
    const int64_t* start = nullptr;  // (count + 1)
    const int32_t* member = nullptr; // coordinates
    const double* bound = nullptr;   // (count) L_b
    int64_t size = 1;                // size of variable blocks
    const double* sums = nullptr;    // (coordinates) upper bounds of the row sums of |H|, for the rule gsl
};

class Solver {
public:
    Solver(const Problem& problem, const Blocks& blocks, Rule rule, Update update, double* x);

    // Updates `count` blocks: those in the sequence, or chosen by the rule. Returns the number of updates done, which
    // is smaller after a request to stop.
    int64_t run(const int32_t* sequence, int64_t count, const Team& team);
    double objective() const;
    // The gradient of the losses, without l2: a copy of the maintained one, or computed anew if `fresh`
    void gradient(double* g, bool fresh);
    double slope(int64_t c, double g) const;             // minimum-norm subgradient, from the gradient of the losses
    int64_t last_change() const { return last_change_; } // the update that last changed the active set; 0: none
    const Vector& derivative() const { return u_; }

private:
    void begin();
    void refresh_row(int64_t i, double* u) const;
    double loss_of_row(int64_t i, const double* z, int64_t stride) const;
    void touch(int32_t j);
    void clear_touched();
    void move(const List& block, const Vector& d);
    void move_losses(const List& block, const Vector& d);
    void renew_derivatives();
    // directions.cpp
    void update_block(const List& block, int64_t id);
    double gradient_of(int32_t c) const;
    Vector block_matrix(const List& block, bool exact);
    double pair_weight(int64_t i, int64_t c, int64_t k, bool exact) const;
    double bound_of(const List& block, int64_t id);
    void solve_model(const List& block, const Vector& h, const Vector& g, Vector& d) const;
    void sweep_model(const List& block, const Vector& g, Vector& d);
    void search(const List& block, const Vector& g, Vector& d);
    void two_metric(const List& block, const Vector& h, const Vector& g, Vector& d);
    double change_along(const List& block, const Vector& d, double t);
    // select.cpp
    int64_t choose_fixed();
    void choose_variable(List& block);
    void hard_thresholded(Vector& scores);
    void hessian_product(const Vector& d, Vector& out) const;
    double model_decrease(int64_t c, double g) const;
    double cached_quadratic_form(int64_t id, const Vector& g);

    Problem p_;
    Blocks blocks_;
    Rule rule_;
    Update update_;
    double* x_;
    bool maintains_;
    Vector z_, u_, g_; // A x and the derivatives of the losses, (classes, n); the gradient (coordinates)
    Vector delta_, buffer_, ahead_;
    Vector known_; // the last gradient computed, and whether x is unchanged since
    bool is_known_ = false;
    Vector weight_, r_, target_, curvature_; // for a model solved by sweeps
    const Team* team_ = nullptr;
    std::vector<int32_t> stamp_;
    List touched_, order_;
    int32_t now_ = 0;
    int64_t steps_ = 0, last_change_ = 0;
    double step_size_ = 0; // used by hard thresholding
    std::vector<Vector> factors_;
};

// Overwrites h (n, n) with its Cholesky factor, in the lower triangle; false: not positive definite.
bool cholesky(Vector& h, size_t n);
// The same, with a growing relative term added to the diagonal until it succeeds; false: it never does, as with NaN.
bool regular_cholesky(Vector& h, size_t n);
void solve_cholesky(const Vector& factor, size_t n, Vector& x);

} // namespace fastiter::bcd
