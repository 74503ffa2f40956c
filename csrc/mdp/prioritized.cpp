// Prioritized sweeping with lazy deletion: a heap element is valid only if its priority is still that of its state.
#include "mdp/model.hpp"
#include <cmath>
#include <queue>
#include <vector>

namespace fastiter::mdp {
namespace {

template <class T> class PrioritizedOf : public Prioritized {
public:
    PrioritizedOf(Model& model, const int64_t* start, const int32_t* before, double discount, double tolerance)
        : model_(model), start_(start), before_(before), discount_(discount), tolerance_(tolerance) {}

    std::pair<int64_t, int64_t> run(void* values, int64_t enough, int64_t most) override {
        T* v = static_cast<T*>(values);
        if (target_.empty()) begin(v);
        int64_t taken = 0, backups = 0;
        std::vector<double> found;
        while (!heap_.empty() && backups < enough) {
            const auto [priority, s] = heap_.top();
            const int64_t count = start_[s + 1] - start_[s];
            const bool is_current = priority == priority_[size_t(s)];
            if (is_current && backups + 1 + count > most) break;
            heap_.pop();
            if (!is_current) continue;
            v[s] = T(target_[size_t(s)]), priority_[size_t(s)] = 0, ++taken;
            found.resize(size_t(count));
            model_.backups(v, before_ + start_[s], count, discount_, found.data());
            backups += 1 + count;
            for (int64_t i = 0; i < count; ++i) update(v, before_[start_[s] + i], found[size_t(i)]);
        }
        return {taken, backups};
    }

private:
    void begin(const T* v) {
        const size_t n = size_t(model_.states());
        std::vector<int32_t> all(n);
        for (size_t s = 0; s < n; ++s) all[s] = int32_t(s);
        target_.resize(n), priority_.assign(n, 0);
        std::vector<double> found(n);
        model_.backups(v, all.data(), int64_t(n), discount_, found.data());
        for (size_t s = 0; s < n; ++s) update(v, int32_t(s), found[s]);
    }

    void update(const T* v, int32_t s, double target) {
        const double priority = std::abs(target - double(v[s]));
        target_[size_t(s)] = target;
        if (priority == priority_[size_t(s)]) return;
        priority_[size_t(s)] = priority;
        if (priority > tolerance_) heap_.emplace(priority, s);
    }

    Model& model_;
    const int64_t* start_;
    const int32_t* before_;
    double discount_, tolerance_;
    std::vector<double> target_, priority_;
    std::priority_queue<std::pair<double, int32_t>> heap_;
};

} // namespace

std::unique_ptr<Prioritized> prioritized(Model& model, bool is_double, const int64_t* start, const int32_t* before,
                                         double discount, double tolerance) {
    if (is_double) return std::make_unique<PrioritizedOf<double>>(model, start, before, discount, tolerance);
    return std::make_unique<PrioritizedOf<float>>(model, start, before, discount, tolerance);
}

} // namespace fastiter::mdp
