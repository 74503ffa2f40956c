// The loop of solvers, as python/fastiter/mdp/_solve.py has it for one process, operation for operation.
#include "mdp/several.hpp"
#include "core/launch.hpp"
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

namespace fastiter::mdp {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kPiece = 64; // sweeps of a policy between two looks for a request to stop

template <class T> class Loop {
public:
    Loop(const Item& item, const Rule& rule, const Team& team)
        : item_(item), rule_(rule), team_(team), n_(item.model->states()), v_(static_cast<T*>(item.v)),
          w_(static_cast<T*>(item.w)), omega_(rule.omega), allowed_(rule.tol) {}

    Found run() {
        double least = kInfinity;
        int64_t since = 0;
        while (!has_to_stop(team_, work())) {
            const bool is_backup = step();
            const double residual = is_backup ? residual_of_backup() : residual_;
            found_.history.push_back(residual);
            since = residual < least ? 0 : since + 1;
            least = residual < least ? residual : least;
            found_.residual = residual;
            if (is_backup && residual < rule_.tol)
                found_.reason = Reason::converged;
            else if (!std::isfinite(residual) || (is_backup && !is_finite()))
                found_.reason = Reason::diverged;
            else if ((is_backup && residual <= 2 * rounding()) || since > rule_.patience)
                found_.reason = Reason::stagnated;
            else if (found_.steps < rule_.max_steps)
                continue;
            if (!is_backup) {
                update();
                backup();
                found_.residual = residual_of_backup();
            }
            break;
        }
        found_.rounding = rounding();
        if (w_ != item_.w) std::memcpy(item_.w, w_, size_t(n_) * sizeof(T));
        return std::move(found_);
    }

private:
    bool step() {
        if (item_.how == How::gs) return step_in_place();
        if (found_.steps) {
            if (item_.how == How::mpi) sweep_policy();
            std::swap(v_, w_);
        }
        backup();
        return true;
    }

    void backup() {
        const Span s = item_.model->alone(v_, w_, item_.action, 1, rule_.discount);
        found_.change = s.low <= s.high ? s : Span{0, 0}; // no state has an action
        ++found_.steps;
    }

    // w <- the policy's operator applied to w, policy_sweeps times
    void sweep_policy() {
        if (!chain_ || std::memcmp(policy_.data(), item_.action, size_t(n_) * sizeof(int32_t)) != 0) {
            policy_.assign(item_.action, item_.action + n_);
            chain_ = item_.model->chain(item_.action);
        }
        for (int64_t left = rule_.policy_sweeps; left > 0;) {
            const int64_t now = std::min(left, kPiece);
            chain_->alone(w_, v_, nullptr, now, rule_.discount);
            if (now % 2) std::swap(v_, w_);
            left -= now;
            if (has_to_stop(team_, now * work())) return;
        }
    }

    // Operations of a sweep, about
    int64_t work() const { return n_ + item_.model->entries(); }

    bool step_in_place() {
        if ((found_.steps && residual_ < allowed_) || found_.steps + 1 >= rule_.max_steps) {
            allowed_ /= 4;
            update();
            backup();
            return true;
        }
        const double largest = sweep();
        ++found_.steps;
        const double scaled = item_.high >= 1 ? largest : 2 * largest * item_.high / (1 - item_.high);
        if (omega_ > 1 && scaled > residual_) omega_ = 1;
        residual_ = scaled / std::min(omega_, 1.0);
        return false;
    }

    double sweep() {
        Model* model = item_.model;
        T* v = v_;
        const int32_t* order = nullptr;
        if (item_.order) {
            if (!copy_) {
                copy_ = model->permuted(item_.order);
                own_.resize(size_t(n_));
                for (int64_t t = 0; t < n_; ++t) own_[size_t(t)] = v_[item_.order[t]];
            }
            model = copy_.get(), v = own_.data();
        } else if (rule_.order == Order::descending || (rule_.order == Order::symmetric && found_.steps % 2)) {
            if (falling_.empty())
                for (int64_t t = n_; t-- > 0;) falling_.push_back(int32_t(t));
            order = falling_.data();
        }
        return model->sweep(v, order, n_, rule_.discount, omega_, rule_.exact);
    }

    // v <- the values of the copy, if there is one
    void update() {
        if (!copy_) return;
        for (int64_t t = 0; t < n_; ++t) v_[item_.order[t]] = own_[size_t(t)];
    }

    double residual_of_backup() const {
        const auto [low, high] = found_.change;
        const double error = std::max(std::abs(low), std::abs(high));
        if (item_.high >= 1) return error;
        if (rule_.sup) return 2 * error * item_.high / (1 - item_.high);
        return bound(high, high >= 0) - bound(low, low < 0);
    }

    double bound(double change, bool is_wide) const {
        const double factor = is_wide ? item_.high : item_.low;
        return change * factor / (1 - factor);
    }

    bool is_finite() const {
        for (int64_t s = 0; s < n_; ++s)
            if (!std::isfinite(w_[s])) return false;
        return true;
    }

    double rounding() const {
        T low = 0, high = 0, nan = 0;
        for (int64_t s = 0; s < n_; ++s)
            low = std::min(low, w_[s]), high = std::max(high, w_[s]), nan = std::isnan(w_[s]) ? w_[s] : nan;
        const double size = std::isnan(nan) ? double(nan) : std::max(double(high), -double(low));
        const double eps = double(std::numeric_limits<T>::epsilon());
        const double sums =
            double(rule_.longest + 3) * 0x1p-52 * (item_.largest_reward + std::max(item_.high, 1.0) * size);
        const double once = sums + eps * size;
        return item_.high < 1 ? once / (1 - item_.high) : once;
    }

    const Item& item_;
    const Rule& rule_;
    const Team& team_;
    int64_t n_;
    T *v_, *w_;
    double omega_, allowed_, residual_ = kInfinity;
    std::unique_ptr<Model> chain_, copy_;
    std::vector<int32_t> policy_, falling_;
    std::vector<T> own_;
    Found found_;
};

} // namespace

template <class T> std::vector<Found> solve_each(const std::vector<Item>& items, const Rule& rule) {
    std::vector<Found> found(items.size());
    std::atomic<size_t> next{0};
    launch(
        [&](Team team) {
            for (size_t m = next++; m < items.size(); m = next++) {
                found[m] = Loop<T>(items[m], rule, team).run();
                if (has_to_stop(team, 1)) return;
            }
        },
        [&](int threads) {
            next = 0;
            return int(std::min<size_t>(size_t(threads), std::max<size_t>(items.size(), 1)));
        },
        Stops::on_request);
    return found;
}
template std::vector<Found> solve_each<float>(const std::vector<Item>&, const Rule&);
template std::vector<Found> solve_each<double>(const std::vector<Item>&, const Rule&);

} // namespace fastiter::mdp
