// Learners that choose one of `arms` relaxation factors for each system of a sequence, from the iteration counts of the
// previous ones. Their state is in the caller's arrays, named below, so that saving the arrays saves the learner; the
// methods compute only the sums of docs/relax/tuners_theory.md, in that order, bitwise the same on every machine.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastiter::relax {

struct TsallisArrays {
    double* estimate;    // (bins, arms): sums of loss / probability
    double* total;       // (bins): sums of losses
    int64_t* rounds;     // (bins)
    double* chance;      // (1): probability of the chosen arm
    int64_t* pending;    // (2): chosen bin and arm, -1 after an update
    uint64_t* generator; // (2): key of the random numbers, and how many were drawn
};

// 1/2-Tsallis-INF, one per bin
class Tsallis {
public:
    Tsallis(int64_t arms, const TsallisArrays& s) : s_(s), weight_(std::size_t(arms)) {}
    const std::vector<double>& probabilities(int64_t bin);
    int64_t predict(int64_t bin);
    void update(double loss);

private:
    TsallisArrays s_;
    std::vector<double> weight_;
};

struct ChebyshevArrays {
    double* gram;        // (arms, terms, terms): sums of f f^T, f the polynomials of the context
    double* moment;      // (arms, terms): sums of f loss
    double* square;      // (arms): sums of loss^2
    double* theta;       // (arms, terms): the prediction is theta . f
    double* misfit;      // (arms): sums of squared errors of theta
    double* feature;     // (terms): polynomials of the context of the prediction
    double* numbers;     // (4): smallest and largest loss, sum of squared prediction errors, pending prediction
    int64_t* rounds;     // (1)
    int64_t* pending;    // (1): arm
    uint64_t* generator; // (2)
};

// SquareCB with a least-squares fit per arm
class Chebyshev {
public:
    // lebesgue: the constant of the approximation error by `terms` polynomials
    Chebyshev(int64_t arms, int64_t terms, double lebesgue, const ChebyshevArrays& s);
    const std::vector<double>& probabilities(double x);
    int64_t predict(double x);
    void update(double loss);

private:
    void polynomials(double x, double* f) const;
    double predicted(int64_t arm, const double* f) const;
    double rate() const;
    void fit(int64_t arm);
    bool solve_free(const double* gram, const double* moment);
    void fit_in_box(const double* gram, const double* moment);
    double gradient(const double* gram, const double* moment, int64_t i) const;

    int64_t arms_, terms_;
    double lebesgue_;
    ChebyshevArrays s_;
    std::vector<double> probability_, f_, x_, z_, limit_, factor_;
    std::vector<int> side_; // for each coefficient: 0 free, -1 or 1 fixed at that bound of the box
};

} // namespace fastiter::relax
