#include "mdp/progress.hpp"
#include <algorithm>
#include <cmath>
#include <limits>

namespace fastiter::mdp {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Residuals whose decrease in a step has fallen to no less than this fraction are taken to decrease linearly.
constexpr double kLinear = 0.85;
constexpr int64_t kFewest = 4; // steps between two judgements

// How far the logarithm of a residual is from that of a tolerance
double distance(double residual, double atol) {
    return atol > 0 ? std::max(std::log(residual / atol), 0.0) : kInfinity;
}

} // namespace

double steps_left(const double* history, int64_t count, double atol) {
    const int64_t span = std::max<int64_t>(2, count / 2);
    if (count <= span) return kInfinity;
    const double* last = history + count - 1;
    const double before = last[-span], middle = last[-(span / 2)], now = *last;
    if (!(0 < now && now < before && before < kInfinity)) return kInfinity;
    const double left = distance(now, atol) * double(span) / std::log(before / now);
    const double early = (before - middle) / double(span - span / 2), late = (middle - now) / double(span / 2);
    return late > kLinear * early && early > 0 ? std::min(left, 2 * now / late) : left;
}

double steps_left(const Judgement& judgement, const double* history, int64_t count, double atol) {
    if (count == 0) return kInfinity;
    const double bound = distance(history[count - 1], atol) / judgement.rate;
    return std::min(steps_left(history, count, atol), bound);
}

int64_t next_judgement(const Judgement& judgement, const double* history, int64_t count, double atol) {
    const double spent = double(count) + judgement.overhead, left = steps_left(judgement, history, count, atol);
    if (!(left <= judgement.needed * spent)) return 0;
    return count + std::max(kFewest, int64_t(std::ceil(std::min(1.5 * left, spent))));
}

} // namespace fastiter::mdp
