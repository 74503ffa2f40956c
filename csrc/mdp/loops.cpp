// The same operations as those of the methods in Python, which serve callbacks, operators and ranks.
#include "mdp/loops.hpp"
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

} // namespace

template <class T> class Loop {
public:
    Loop(const Input<T>& input, const Options& options, Result& result)
        : input_(input), options_(options), result_(result), n_(input.model->states()), v_(input.x.v), w_(input.x.w),
          omega_(options.omega), allowed_(options.atol), enough_(input.accuracy.reachable()),
          judged_(options.judgement.first) {}

    // Returns true when the loop has ended, false if stopped. team: the calling thread is one of its members; null: all
    // threads share each sweep, and the loop also pauses after `operations`, at the end of a step or of part of one.
    bool run(const Team* team, int64_t operations) {
        team_ = team;
        operations_ = operations;
        for (;;) {
            if (has_to_pause(work() + kStep)) return false;
            if (input_.kind == Kind::mpi && result_.steps && !sweep_policy()) return false;
            const bool is_backup = step();
            const bool is_finite = !is_backup || set_bounds();
            const double residual = is_backup ? residual_of_backup() : residual_;
            result_.history.push_back(residual);
            without_progress_ = residual < smallest_ ? 0 : without_progress_ + 1;
            smallest_ = residual < smallest_ ? residual : smallest_;
            if (!std::isfinite(residual) || !is_finite)
                result_.reason = Reason::diverged;
            else if (is_backup && residual <= options_.atol)
                result_.reason = Reason::converged;
            else if ((is_backup && is_rounding(rest(residual), result_.bounds.floor, without_progress_)) ||
                     without_progress_ > options_.patience)
                result_.reason = Reason::stagnated;
            else if (result_.steps < options_.max_steps && !has_to_leave())
                continue;
            if (!is_backup) {
                update();
                backup();
                set_bounds();
            }
            break;
        }
        if (w_ != input_.x.w) std::memcpy(input_.x.w, w_, size_t(n_) * sizeof(T));
        return true;
    }

private:
    bool step() {
        if (input_.kind == Kind::gs) return step_in_place();
        if (result_.steps) std::swap(v_, w_);
        backup();
        return true;
    }

    // Whether the steps are left to other methods
    bool has_to_leave() {
        const int64_t count = int64_t(result_.history.size());
        if (judged_ == 0 || count < judged_) return false;
        judged_ = next_judgement(options_.judgement, result_.history.data(), count, options_.atol);
        return judged_ == 0;
    }

    void backup() {
        const Span s = apply(*input_.model, {v_, w_, input_.x.action}, 1);
        result_.change = s.low <= s.high ? s : Span{0, 0}; // no state has an action
        ++result_.steps;
    }

    Span apply(const Model<T>& model, Vectors<T> x, int64_t count) {
        if (team_) return model.backup_alone(x, count, options_.discount);
        return model.backup(x, count, options_.discount);
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
            if (!chain_ || std::memcmp(policy_.data(), input_.x.action, size_t(n_) * sizeof(int32_t)) != 0) {
                policy_.assign(input_.x.action, input_.x.action + n_);
                chain_ = input_.model->chain(input_.x.action);
            }
            sweeps_ = options_.policy_sweeps;
        }
        const int64_t each = n_ + chain_->entries(), largest = std::clamp<int64_t>(kOperations / each, 1, kPiece);
        while (sweeps_ > 0) {
            const int64_t now = std::min(sweeps_, largest);
            if (has_to_pause(now * each)) return false;
            apply(*chain_, {w_, v_}, now);
            if (now % 2) std::swap(v_, w_);
            sweeps_ -= now;
        }
        return true;
    }

    // Approximate number of operations of a sweep
    int64_t work() const { return n_ + input_.model->entries(); }

    bool step_in_place() {
        if ((is_swept_ && residual_ <= std::max(allowed_, enough_)) || result_.steps + 1 >= options_.max_steps) {
            allowed_ /= 4;
            is_swept_ = false;
            update();
            backup();
            return true;
        }
        const double largest = sweep();
        ++result_.steps;
        is_swept_ = true;
        const double scaled = input_.accuracy.high() >= 1 ? largest : input_.accuracy.symmetric(largest);
        if (omega_ > 1 && scaled > residual_) omega_ = 1;
        residual_ = scaled / std::min(omega_, 1.0);
        return false;
    }

    double sweep() {
        const Model<T>* model = input_.model;
        T* v = v_;
        const int32_t* order = nullptr;
        if (input_.order) {
            if (!copy_) {
                copy_ = model->permuted(input_.order);
                own_.resize(size_t(n_));
                for (int64_t t = 0; t < n_; ++t) own_[size_t(t)] = v_[input_.order[t]];
            }
            model = copy_.get();
            v = own_.data();
        } else if (options_.order == Order::descending || (options_.order == Order::symmetric && result_.steps % 2)) {
            if (falling_.empty())
                for (int64_t t = n_; t-- > 0;) falling_.push_back(int32_t(t));
            order = falling_.data();
        }
        return model->sweep(v, order, n_, options_.discount, omega_, options_.exact);
    }

    // Updates v from the copy, if there is one.
    void update() {
        if (!copy_) return;
        for (int64_t t = 0; t < n_; ++t) v_[input_.order[t]] = own_[size_t(t)];
    }

    double residual_of_backup() const {
        const double error = std::max(std::abs(result_.change.low), std::abs(result_.change.high));
        if (input_.accuracy.high() >= 1) return error;
        const double width = result_.bounds.width();
        return options_.sup ? std::max(width, input_.accuracy.symmetric(error) + 2 * result_.bounds.rounding) : width;
    }

    // The residual without rounding errors
    double rest(double residual) const {
        return input_.accuracy.high() >= 1 ? residual : residual - 2 * result_.bounds.rounding;
    }

    // Sets the bounds, and returns whether all of w is finite.
    bool set_bounds() {
        T low = 0, high = 0;
        int finite = 1, numbers = 1;
        for (int64_t s = 0; s < n_; ++s) {
            const T x = w_[s];
            low = x < low ? x : low;
            high = x > high ? x : high;
            finite &= std::abs(x) <= std::numeric_limits<T>::max();
            numbers &= x == x;
        }
        const double size = numbers ? std::max(double(high), -double(low)) : std::numeric_limits<double>::quiet_NaN();
        result_.bounds = input_.accuracy.bounds(result_.change, size);
        enough_ = result_.bounds.floor;
        return finite;
    }

    const Input<T>& input_;
    const Options& options_;
    Result& result_;
    const Team* team_ = nullptr;
    int64_t n_;
    T *v_, *w_;
    double omega_, allowed_, residual_ = kInfinity;
    double enough_;         // the changes of a sweep in place, as the width of bounds, at which only rounding remains
    bool is_swept_ = false; // since the last backup
    std::unique_ptr<Model<T>> chain_, copy_;
    std::vector<int32_t> policy_, falling_;
    std::vector<T> own_;
    double smallest_ = kInfinity;
    int64_t without_progress_ = 0, judged_; // judged_: the number of steps at the next judgement
    int64_t operations_ = 0, sweeps_ = 0;   // remaining in this call, and in the policy's sweeps in progress
};

template <class T>
Loops<T>::Loops(std::vector<Input<T>> inputs, const Options& options)
    : inputs_(std::move(inputs)), options_(options), results_(inputs_.size()) {
    loops_.reserve(inputs_.size());
    for (size_t m = 0; m < inputs_.size(); ++m) loops_.emplace_back(inputs_[m], options_, results_[m]);
}

template <class T> Loops<T>::~Loops() = default;

template <class T> bool Loops<T>::run() {
    if (options_.is_many) {
        run_many();
        return true;
    }
    while (ended_ < loops_.size() && loops_[ended_].run(nullptr, kOperations)) ++ended_;
    return ended_ == loops_.size();
}

template <class T> void Loops<T>::run_many() {
    std::atomic<size_t> next{0};
    launch(
        [&](Team team) {
            for (size_t m = next++; m < loops_.size(); m = next++)
                if (!loops_[m].run(&team, 0)) return;
        },
        [&](int threads) { return int(std::min<size_t>(size_t(threads), std::max<size_t>(loops_.size(), 1))); },
        Stops::on_request);
}

template class Loops<float>;
template class Loops<double>;

} // namespace fastiter::mdp
