#include "mdp/bounds.hpp"
#include <algorithm>
#include <cmath>
#include <limits>

namespace fastiter::mdp {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUnit = 0x1p-53; // the largest relative error of an operation
constexpr double kSmallest = std::numeric_limits<double>::denorm_min();
// Factors of constants count as equal if they differ by at most this, relative to 1 minus them
constexpr double kEqual = 1e-6;
// Near the floor, as a factor of it, this many steps without progress are enough
constexpr double kNear = 8;
constexpr int64_t kSteps = 10;

// 1 - a b, of which only the last operation is rounded
double complement(double a, double b) {
    const double product = a * b;
    return (1 - product) - std::fma(a, b, -product);
}

} // namespace

Accuracy::Accuracy(bool is_double, double discount, double low, double high, double reward, int64_t longest)
    : low_(discount * low), high_(discount * high), below_(complement(discount, high)),
      above_(complement(discount, low)), reward_(reward), unit_(is_double ? 0 : 0x1p-24),
      smallest_(is_double ? kSmallest : double(std::numeric_limits<float>::denorm_min())), entries_(double(longest)) {}

// A product and a sum for each entry, the discount, the reward, and the rounding to the type of w
double Accuracy::sweep_error(double before, double size) const {
    const double all = reward_ + high_ * before;
    return ((entries_ + 4) * kUnit + inexact) * all + unit_ * size + (entries_ + 1) * kSmallest + smallest_ + doubt;
}

// The sum of the changes still to come after a change
double Accuracy::later(double change, bool is_wide) const {
    if (change == 0) return 0;
    const double rest = is_wide ? below_ : above_;
    return rest > 0 ? change * ((is_wide ? high_ : low_) / rest) : std::copysign(kInfinity, change);
}

Bounds Accuracy::bounds(Span change, double size) const {
    const auto [low, high] = change;
    Bounds result{later(low, low < 0), later(high, high >= 0)};
    const double largest = std::max(std::abs(low), std::abs(high));
    double once = sweep_error(size + largest * (1 + 2 * kUnit), size), shift = 0;
    if (below_ > 0) {
        once = (once + kUnit * largest) / below_;
        shift = std::max(std::abs(result.low), std::abs(result.high));
        if (high_ - low_ <= kEqual * below_ && (low > 0) == (high > 0))
            result.floor = std::min(std::abs(low), std::abs(high)) * (high_ / below_ - low_ / above_);
    }
    result.rounding = once + 8 * kUnit * shift + (4 * kUnit + unit_) * (base + size + shift + once);
    result.floor = 2 * (result.rounding + std::max(result.floor, 0.0));
    return result;
}

double Accuracy::reachable() const { return bounds({reward_, reward_}, below_ > 0 ? reward_ / below_ : reward_).floor; }

bool is_rounding(double rest, double floor, int64_t unimproved) {
    return rest <= floor || (rest <= kNear * floor && unimproved > kSteps);
}

} // namespace fastiter::mdp
