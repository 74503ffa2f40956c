#include "relax/tuners.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastiter::relax {
namespace {

constexpr int kNewtonSteps = 30;
// Ridge added to the diagonal of the normal equations: as it tends to 0, the fit tends to the minimum-norm solution.
constexpr double kRidge = 1e-8;

// The next SplitMix64 number in [0, 1), from a key and a counter
double uniform(uint64_t* generator) {
    uint64_t z = generator[0] + ++generator[1] * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return double((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

// The first arm whose cumulative probability exceeds u, skipping arms of probability 0
int64_t draw(const std::vector<double>& probability, double u) {
    double sum = 0;
    int64_t last = 0;
    for (size_t i = 0; i < probability.size(); ++i) {
        if (!(probability[i] > 0)) continue;
        sum += probability[i];
        last = int64_t(i);
        if (u < sum) break;
    }
    return last;
}

} // namespace

// ---- Tsallis-INF ----------------------------------------------------------------------------------------------------

// p_i = w_i^2, w_i = 2 / (eta (k_i - x)), with x such that they sum to 1. The sum is convex and increasing in x up to
// the smallest k_i; Newton's method starts at the x where the best arm alone has probability 1, and decreases
// monotonically to the root.
const std::vector<double>& Tsallis::probabilities(int64_t bin) {
    const size_t arms = weight_.size();
    const double* k = s_.estimate + bin * int64_t(arms);
    const double eta = 2 / std::sqrt(double(s_.rounds[bin] + 1)), total = s_.total[bin];
    const double scale = total > 0 ? total / double(s_.rounds[bin]) : 1, smallest = *std::min_element(k, k + arms);
    double below = 2 / eta; // the smallest k_i minus x
    for (int step = 0; step < kNewtonSteps; ++step) {
        double sum = 0, slope = 0;
        for (size_t i = 0; i < arms; ++i) {
            const double w = 2 / (eta * ((k[i] - smallest) / scale + below));
            sum += w * w;
            slope += w * w * w;
        }
        const double change = (sum - 1) / (eta * slope);
        if (!(change > 1e-14 * below)) break;
        below += change;
    }
    double sum = 0;
    for (size_t i = 0; i < arms; ++i) {
        const double w = 2 / (eta * ((k[i] - smallest) / scale + below));
        weight_[i] = w * w;
        sum += weight_[i];
    }
    for (double& p : weight_) p /= sum;
    return weight_;
}

int64_t Tsallis::predict(int64_t bin) {
    const int64_t arm = draw(probabilities(bin), uniform(s_.generator));
    s_.pending[0] = bin;
    s_.pending[1] = arm;
    s_.chance[0] = weight_[size_t(arm)];
    return arm;
}

void Tsallis::update(double loss) {
    const int64_t bin = s_.pending[0];
    s_.estimate[bin * int64_t(weight_.size()) + s_.pending[1]] += loss / s_.chance[0];
    s_.total[bin] += loss;
    ++s_.rounds[bin];
    s_.pending[0] = s_.pending[1] = -1;
}

// ---- ChebCB ---------------------------------------------------------------------------------------------------------

Chebyshev::Chebyshev(int64_t arms, int64_t terms, double lebesgue, const ChebyshevArrays& s)
    : arms_(arms), terms_(terms), lebesgue_(lebesgue), s_(s), probability_(size_t(arms)), f_(size_t(terms)),
      x_(size_t(terms)), z_(size_t(terms)), limit_(size_t(terms)), factor_(size_t(terms * terms)),
      side_(size_t(terms)) {}

// T_j(x) for x in [-1, 1]
void Chebyshev::polynomials(double x, double* f) const {
    for (int64_t j = 0; j < terms_; ++j) f[j] = j == 0 ? 1 : j == 1 ? x : 2 * x * f[j - 1] - f[j - 2];
}

double Chebyshev::predicted(int64_t arm, const double* f) const {
    double y = 0;
    for (int64_t j = 0; j < terms_; ++j) y += s_.theta[arm * terms_ + j] * f[j];
    return y;
}

// SquareCB's learning rate: the worse the predictions compared with the fits, the more it explores.
double Chebyshev::rate() const {
    const double t = double(s_.rounds[0]), spread = lebesgue_ * (s_.numbers[1] - s_.numbers[0]);
    const double misfit = std::accumulate(s_.misfit, s_.misfit + arms_, 0.0);
    const double excess = std::max(s_.numbers[2] - misfit, 0.0) + 2 * (spread * spread) * t;
    return excess > 0 ? 2 * t * std::sqrt(double(arms_) * t / excess) : 0;
}

const std::vector<double>& Chebyshev::probabilities(double x) {
    polynomials(x, f_.data());
    int64_t best = 0;
    for (int64_t i = 0; i < arms_; ++i) {
        probability_[size_t(i)] = predicted(i, f_.data());
        if (probability_[size_t(i)] < probability_[size_t(best)]) best = i;
    }
    const double eta = s_.rounds[0] > 0 ? rate() : 0, smallest = probability_[size_t(best)];
    double others = 0;
    for (int64_t i = 0; i < arms_; ++i) {
        if (i == best) continue;
        double& p = probability_[size_t(i)];
        p = 1 / (double(arms_) + eta * (p - smallest));
        others += p;
    }
    probability_[size_t(best)] = 1 - others;
    return probability_;
}

int64_t Chebyshev::predict(double x) {
    const int64_t arm = draw(probabilities(x), uniform(s_.generator));
    std::copy(f_.begin(), f_.end(), s_.feature);
    s_.numbers[3] = predicted(arm, s_.feature);
    s_.pending[0] = arm;
    return arm;
}

void Chebyshev::update(double loss) {
    const int64_t arm = s_.pending[0];
    double *gram = s_.gram + arm * terms_ * terms_, *moment = s_.moment + arm * terms_;
    for (int64_t i = 0; i < terms_; ++i) {
        for (int64_t j = 0; j < terms_; ++j) gram[i * terms_ + j] += s_.feature[i] * s_.feature[j];
        moment[i] += s_.feature[i] * loss;
    }
    s_.square[arm] += loss * loss;
    const double error = s_.numbers[3] - loss;
    s_.numbers[2] += error * error;
    const bool is_new = s_.rounds[0] == 0 || loss < s_.numbers[0] || loss > s_.numbers[1];
    s_.numbers[0] = s_.rounds[0] == 0 ? loss : std::min(s_.numbers[0], loss);
    s_.numbers[1] = s_.rounds[0] == 0 ? loss : std::max(s_.numbers[1], loss);
    ++s_.rounds[0];
    s_.pending[0] = -1;
    // The box depends on the range of the losses, and every fit depends on the box.
    for (int64_t i = 0; i < arms_; ++i)
        if ((is_new && s_.gram[i * terms_ * terms_] > 0) || i == arm) fit(i);
}

// Fits theta by least squares with |theta_0| <= the largest number of iterations (loss + 1), and |theta_j| <= 2 (range
// of losses) / j.
void Chebyshev::fit(int64_t arm) {
    const double *gram = s_.gram + arm * terms_ * terms_, *moment = s_.moment + arm * terms_;
    for (int64_t j = 0; j < terms_; ++j)
        limit_[size_t(j)] = j == 0 ? s_.numbers[1] + 1 : 2 * (s_.numbers[1] - s_.numbers[0]) / double(j);
    std::fill(side_.begin(), side_.end(), 0);
    std::fill(x_.begin(), x_.end(), 0.0);
    fit_in_box(gram, moment);
    double misfit = s_.square[arm];
    for (int64_t i = 0; i < terms_; ++i) {
        double product = 0;
        for (int64_t j = 0; j < terms_; ++j) product += gram[i * terms_ + j] * x_[size_t(j)];
        misfit += x_[size_t(i)] * (product - 2 * moment[i]);
        s_.theta[arm * terms_ + i] = x_[size_t(i)];
    }
    s_.misfit[arm] = std::max(misfit, 0.0);
}

// z: least squares over the free coefficients, by Cholesky factorisation of their rows, with the others fixed at x.
// Returns whether z lies in the box.
bool Chebyshev::solve_free(const double* gram, const double* moment) {
    const int64_t n = terms_;
    double* l = factor_.data();
    for (int64_t i = 0; i < n; ++i) {
        z_[size_t(i)] = x_[size_t(i)];
        if (side_[size_t(i)]) continue;
        double right = moment[i];
        for (int64_t j = 0; j < n; ++j)
            if (side_[size_t(j)]) right -= gram[i * n + j] * x_[size_t(j)];
        for (int64_t j = 0; j <= i; ++j) {
            if (side_[size_t(j)]) continue;
            double sum = gram[i * n + j] + (i == j ? kRidge : 0);
            for (int64_t k = 0; k < j; ++k)
                if (!side_[size_t(k)]) sum -= l[i * n + k] * l[j * n + k];
            // Rounding may leave less than the ridge, which bounds every pivot in exact arithmetic.
            l[i * n + j] = i == j ? std::sqrt(std::max(sum, kRidge)) : sum / l[j * n + j];
        }
        for (int64_t j = 0; j < i; ++j)
            if (!side_[size_t(j)]) right -= l[i * n + j] * z_[size_t(j)];
        z_[size_t(i)] = right / l[i * n + i];
    }
    bool is_inside = true;
    for (int64_t i = n - 1; i >= 0; --i) {
        if (side_[size_t(i)]) continue;
        for (int64_t j = i + 1; j < n; ++j)
            if (!side_[size_t(j)]) z_[size_t(i)] -= l[j * n + i] * z_[size_t(j)];
        z_[size_t(i)] /= l[i * n + i];
        is_inside = is_inside && std::fabs(z_[size_t(i)]) <= limit_[size_t(i)];
    }
    return is_inside;
}

double Chebyshev::gradient(const double* gram, const double* moment, int64_t i) const {
    double sum = kRidge * x_[size_t(i)] - moment[i];
    for (int64_t j = 0; j < terms_; ++j) sum += gram[i * terms_ + j] * x_[size_t(j)];
    return sum;
}

// Active-set method: moves from a point in the box towards the solution over the free coefficients. The first
// coefficient that reaches a bound is fixed there; at a solution, the one whose gradient pulls it most into the box is
// freed. The objective decreases every time, so that it terminates; a limit on the iterations stops it if only rounding
// errors change.
void Chebyshev::fit_in_box(const double* gram, const double* moment) {
    for (int64_t turn = 0; turn < 10 * terms_; ++turn) {
        int64_t change = -1;
        if (solve_free(gram, moment)) {
            x_ = z_;
            double largest = 1e-9 * (s_.numbers[1] + 1);
            for (int64_t i = 0; i < terms_; ++i) {
                const double pull =
                    side_[size_t(i)] && limit_[size_t(i)] > 0 ? side_[size_t(i)] * gradient(gram, moment, i) : 0;
                if (pull > largest) {
                    largest = pull;
                    change = i;
                }
            }
            if (change < 0) return;
            side_[size_t(change)] = 0;
            continue;
        }
        double step = 2;
        for (int64_t i = 0; i < terms_; ++i) {
            if (std::fabs(z_[size_t(i)]) <= limit_[size_t(i)]) continue;
            const double end = z_[size_t(i)] > 0 ? limit_[size_t(i)] : -limit_[size_t(i)];
            const double to_end = (end - x_[size_t(i)]) / (z_[size_t(i)] - x_[size_t(i)]);
            if (to_end < step) {
                step = to_end;
                change = i;
            }
        }
        for (int64_t i = 0; i < terms_; ++i) x_[size_t(i)] += step * (z_[size_t(i)] - x_[size_t(i)]);
        side_[size_t(change)] = z_[size_t(change)] > 0 ? 1 : -1;
        x_[size_t(change)] = side_[size_t(change)] * limit_[size_t(change)];
    }
}

} // namespace fastiter::relax
