// Prioritized sweeping with lazy deletion: a heap element is valid only if its priority is still that of its state.
#include "mdp/model.hpp"
#include <cmath>

namespace fastiter::mdp {

template <class T>
Prioritized<T>::Prioritized(const Model<T>& model, const int64_t* start, const int32_t* before, double discount,
                            double tolerance)
    : model_(model), start_(start), before_(before), discount_(discount), tolerance_(tolerance) {}

template <class T> Popped Prioritized<T>::run(T* v, int64_t enough, int64_t limit) {
    if (target_.empty()) begin(v);
    Popped all;
    std::vector<double> targets;
    while (!heap_.empty() && all.backups < enough) {
        const auto [priority, s] = heap_.top();
        const int64_t count = start_[s + 1] - start_[s];
        const bool is_current = priority == priority_[size_t(s)];
        if (is_current && all.backups + 1 + count > limit) break;
        heap_.pop();
        if (!is_current) continue;
        v[s] = T(target_[size_t(s)]);
        priority_[size_t(s)] = 0;
        ++all.states;
        targets.resize(size_t(count));
        model_.backups(v, before_ + start_[s], count, discount_, targets.data());
        all.backups += 1 + count;
        for (int64_t i = 0; i < count; ++i) update(v, before_[start_[s] + i], targets[size_t(i)]);
    }
    return all;
}

template <class T> void Prioritized<T>::begin(const T* v) {
    const size_t n = size_t(model_.states());
    std::vector<int32_t> all(n);
    for (size_t s = 0; s < n; ++s) all[s] = int32_t(s);
    target_.resize(n);
    priority_.assign(n, 0);
    std::vector<double> targets(n);
    model_.backups(v, all.data(), int64_t(n), discount_, targets.data());
    for (size_t s = 0; s < n; ++s) update(v, int32_t(s), targets[s]);
}

template <class T> void Prioritized<T>::update(const T* v, int32_t s, double target) {
    const double priority = std::abs(target - double(v[s]));
    target_[size_t(s)] = target;
    if (priority == priority_[size_t(s)]) return;
    priority_[size_t(s)] = priority;
    if (priority > tolerance_) heap_.emplace(priority, s);
}

template class Prioritized<float>;
template class Prioritized<double>;

} // namespace fastiter::mdp
