// The solver loop: the same operations as in python/fastiter/mdp/_solve.py, which runs it for a single process.
#include "mdp/several.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

namespace fastiter::mdp {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Operations of one call, and of a policy's sweeps between two polls for a request to stop; at most 64 sweeps
constexpr int64_t kOperations = 1 << 25, kPiece = 64;
constexpr int64_t kStep = 1 << 10; // the approximate overhead of a kernel call, in operations

template <class T> class Loop {
public:
    Loop(const Item& item, const Rule& rule, Found& found)
        : item_(item), rule_(rule), found_(found), n_(item.model->states()), v_(static_cast<T*>(item.v)),
          w_(static_cast<T*>(item.w)), omega_(rule.omega), allowed_(rule.tol), enough_(item.accuracy.reachable()),
          judged_(rule.judgement.first) {}

    // Returns true when the loop has ended, false if stopped. team: the calling thread is one of its members; null: all
    // threads share each sweep, and the loop also pauses after `operations`, at the end of a step or of part of one.
    bool run(const Team* team, int64_t operations) {
        team_ = team, operations_ = operations;
        for (;;) {
            if (has_to_pause(work() + kStep)) return false;
            if (item_.how == How::mpi && found_.steps && !sweep_policy()) return false;
            const bool is_backup = step();
            const bool is_finite = !is_backup || look();
            const double residual = is_backup ? residual_of_backup() : residual_;
            found_.history.push_back(residual);
            since_ = residual < least_ ? 0 : since_ + 1;
            least_ = residual < least_ ? residual : least_;
            if (!std::isfinite(residual) || !is_finite)
                found_.reason = Reason::diverged;
            else if (is_backup && residual <= rule_.tol)
                found_.reason = Reason::converged;
            else if ((is_backup && is_rounding(rest(residual), found_.bounds.floor, since_)) || since_ > rule_.patience)
                found_.reason = Reason::stagnated;
            else if (found_.steps < rule_.max_steps && !has_to_leave())
                continue;
            if (!is_backup) {
                update();
                backup();
                look();
            }
            break;
        }
        if (w_ != item_.w) std::memcpy(item_.w, w_, size_t(n_) * sizeof(T));
        return true;
    }

private:
    bool step() {
        if (item_.how == How::gs) return step_in_place();
        if (found_.steps) std::swap(v_, w_);
        backup();
        return true;
    }

    // Whether the steps are left to other methods
    bool has_to_leave() {
        const int64_t count = int64_t(found_.history.size());
        if (judged_ == 0 || count < judged_) return false;
        judged_ = next_judgement(rule_.judgement, found_.history.data(), count, rule_.tol);
        return judged_ == 0;
    }

    void backup() {
        const Span s = apply(*item_.model, v_, w_, item_.action, 1);
        found_.change = s.low <= s.high ? s : Span{0, 0}; // no state has an action
        ++found_.steps;
    }

    Span apply(Model& model, T* v, T* w, int32_t* action, int64_t count) {
        if (team_) return model.alone(v, w, action, count, rule_.discount);
        return model.backup(v, w, action, count, rule_.discount, nullptr);
    }

    // Whether to return before the next `operations`: a pause, after which it is called again, or a request to stop
    bool has_to_pause(int64_t operations) {
        if (team_) return has_to_stop(*team_, operations);
        if (operations_ <= 0) return true;
        operations_ -= operations;
        return false;
    }

    // Applies the policy's operator to w policy_sweeps times; returns whether all of them are done.
    bool sweep_policy() {
        if (sweeps_ == 0) {
            if (!chain_ || std::memcmp(policy_.data(), item_.action, size_t(n_) * sizeof(int32_t)) != 0) {
                policy_.assign(item_.action, item_.action + n_);
                chain_ = item_.model->chain(item_.action);
            }
            sweeps_ = rule_.policy_sweeps;
        }
        const int64_t each = n_ + chain_->entries(), most = std::clamp<int64_t>(kOperations / each, 1, kPiece);
        while (sweeps_ > 0) {
            const int64_t now = std::min(sweeps_, most);
            if (has_to_pause(now * each)) return false;
            apply(*chain_, w_, v_, nullptr, now);
            if (now % 2) std::swap(v_, w_);
            sweeps_ -= now;
        }
        return true;
    }

    // Approximate number of operations of a sweep
    int64_t work() const { return n_ + item_.model->entries(); }

    bool step_in_place() {
        if ((is_swept_ && residual_ <= std::max(allowed_, enough_)) || found_.steps + 1 >= rule_.max_steps) {
            allowed_ /= 4, is_swept_ = false;
            update();
            backup();
            return true;
        }
        const double largest = sweep();
        ++found_.steps, is_swept_ = true;
        const double scaled = item_.accuracy.high() >= 1 ? largest : item_.accuracy.symmetric(largest);
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

    // Updates v from the copy, if there is one.
    void update() {
        if (!copy_) return;
        for (int64_t t = 0; t < n_; ++t) v_[item_.order[t]] = own_[size_t(t)];
    }

    double residual_of_backup() const {
        const double error = std::max(std::abs(found_.change.low), std::abs(found_.change.high));
        if (item_.accuracy.high() >= 1) return error;
        const double width = found_.bounds.width();
        return rule_.sup ? std::max(width, item_.accuracy.symmetric(error) + 2 * found_.bounds.rounding) : width;
    }

    // The residual without rounding errors
    double rest(double residual) const {
        return item_.accuracy.high() >= 1 ? residual : residual - 2 * found_.bounds.rounding;
    }

    // Sets the bounds, and returns whether all of w is finite.
    bool look() {
        T low = 0, high = 0;
        int finite = 1, numbers = 1;
        for (int64_t s = 0; s < n_; ++s) {
            const T x = w_[s];
            low = x < low ? x : low, high = x > high ? x : high;
            finite &= std::abs(x) <= std::numeric_limits<T>::max(), numbers &= x == x;
        }
        const double size = numbers ? std::max(double(high), -double(low)) : std::numeric_limits<double>::quiet_NaN();
        found_.bounds = item_.accuracy.bounds(found_.change, size);
        enough_ = found_.bounds.floor;
        return finite;
    }

    const Item& item_;
    const Rule& rule_;
    Found& found_;
    const Team* team_ = nullptr;
    int64_t n_;
    T *v_, *w_;
    double omega_, allowed_, residual_ = kInfinity;
    double enough_;         // the changes of a sweep in place, as the width of bounds, at which only rounding remains
    bool is_swept_ = false; // since the last backup
    std::unique_ptr<Model> chain_, copy_;
    std::vector<int32_t> policy_, falling_;
    std::vector<T> own_;
    double least_ = kInfinity;
    int64_t since_ = 0, judged_;          // judged_: the number of steps at the next judgement
    int64_t operations_ = 0, sweeps_ = 0; // remaining in this call, and in the policy's sweeps in progress
};

template <class T> class SeveralOf : public Several {
public:
    SeveralOf(std::vector<Item> items, const Rule& rule, bool are_small)
        : items_(std::move(items)), rule_(rule), are_small_(are_small) {
        found_.resize(items_.size());
        loops_.reserve(items_.size());
        for (size_t m = 0; m < items_.size(); ++m) loops_.emplace_back(items_[m], rule_, found_[m]);
    }

    bool run() override {
        if (are_small_) {
            run_small();
            return true;
        }
        while (ended_ < loops_.size() && loops_[ended_].run(nullptr, kOperations)) ++ended_;
        return ended_ == loops_.size();
    }

private:
    void run_small() {
        std::atomic<size_t> next{0};
        launch(
            [&](Team team) {
                for (size_t m = next++; m < loops_.size(); m = next++)
                    if (!loops_[m].run(&team, 0)) return;
            },
            [&](int threads) { return int(std::min<size_t>(size_t(threads), std::max<size_t>(loops_.size(), 1))); },
            Stops::on_request);
    }

    std::vector<Item> items_;
    Rule rule_;
    bool are_small_;
    size_t ended_ = 0;
    std::vector<Loop<T>> loops_;
};

} // namespace

template <class T> std::unique_ptr<Several> several(std::vector<Item> items, const Rule& rule, bool are_small) {
    return std::make_unique<SeveralOf<T>>(std::move(items), rule, are_small);
}
template std::unique_ptr<Several> several<float>(std::vector<Item>, const Rule&, bool);
template std::unique_ptr<Several> several<double>(std::vector<Item>, const Rule&, bool);

} // namespace fastiter::mdp
