// Runs the kernels on teams of threads, and builds the Markov chains of policies.
#include "mdp/model.hpp"
#include "core/dispatch.hpp"
#include "core/launch.hpp"
#include "core/rows.hpp"
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace fastiter::mdp {
namespace {

constexpr int64_t kMinEntries = 1 << 14; // entries per thread

// Applies T `count` times to a range of states; `meet` is called between two applications.
template <class T, class F>
Span repeated(const Process<T>& p, Vectors<T> x, int64_t count, int64_t first, int64_t last, F meet) {
    const auto& table = kernels().of<KernelsOf<T>>();
    Span span;
    for (int64_t k = 0; k < count; ++k) {
        const bool is_last = k + 1 == count;
        const Backup<T> b{x.v, x.w, is_last ? x.action : nullptr, first, last};
        if (is_last || p.row)
            span = table.backup(p, b);
        else
            table.evaluate(p, b);
        if (!is_last) meet();
        std::swap(x.v, x.w);
    }
    return span;
}

} // namespace

template <class T> Model<T>::Model(const Process<T>& p, Arrays<T> own) : p_(p), own_(std::move(own)) {
    const int64_t all = rows();
    p_.length = all ? p_.entry[1] - p_.entry[0] : 0;
    if (p_.length > 5) p_.length = 0; // the kernels unroll up to 5
    for (int64_t j = 1; j < all && p_.length; ++j)
        if (p_.entry[j + 1] - p_.entry[j] != p_.length) p_.length = 0;
    if (p_.entry[0]) p_.length = 0;
}

template <class T> Process<T> Model<T>::with(double discount, const T* reward) const {
    Process<T> p = p_;
    p.discount = discount;
    if (reward) p.reward = reward;
    return p;
}

template <class T> Span Model<T>::backup(Vectors<T> x, int64_t count, double discount, const T* reward) const {
    const Process<T> p = with(discount, reward);
    std::vector<Span> spans;
    launch(
        [&](Team team) {
            const auto meet = [&] {
                if (team.size > 1) wait(team.barriers[0], team.size);
            };
            const int64_t first = bound(team.id, team.size), last = bound(team.id + 1, team.size);
            spans[size_t(team.id)] = repeated(p, x, count, first, last, meet);
        },
        [&](int threads) {
            const int used = threads_for(p.entry[rows()] + rows(), kMinEntries, threads);
            spans.assign(size_t(used), {});
            return used;
        });
    Span all = spans[0];
    for (const Span& s : spans) all = {std::min(all.low, s.low), std::max(all.high, s.high)};
    return all;
}

template <class T> Span Model<T>::backup_alone(Vectors<T> x, int64_t count, double discount) const {
    return repeated(with(discount), x, count, 0, p_.states, [] {});
}

template <class T>
double Model<T>::sweep(T* v, const int32_t* order, int64_t count, double discount, double omega, bool exact) const {
    return kernels().of<KernelsOf<T>>().sweep(with(discount), {v, order, count, omega, exact});
}

template <class T>
void Model<T>::backups(const T* v, const int32_t* states, int64_t count, double discount, double* w) const {
    kernels().of<KernelsOf<T>>().backups(with(discount), v, states, count, w);
}

template <class T> void Model<T>::action_values(const T* v, T* q, double discount) const {
    const Process<T> p = with(discount);
    const auto kernel = kernels().of<KernelsOf<T>>().action_values;
    launch([&](Team team) { kernel(p, v, q, rows() * team.id / team.size, rows() * (team.id + 1) / team.size); },
           [&](int threads) { return threads_for(p.entry[rows()], kMinEntries, threads); });
}

template <class T> std::unique_ptr<Model<T>> Model<T>::chain(const int32_t* action) const {
    Arrays<T> own;
    own.entry = Block<int64_t>(p_.states + 1);
    own.reward = Block<T>(p_.states);
    own.entry[0] = 0;
    auto row = [&](int64_t s) { return p_.row ? p_.row[s] + action[s] : s; };
    for (int64_t s = 0; s < p_.states; ++s) {
        const int64_t count = action[s] < 0 ? 0 : p_.entry[row(s) + 1] - p_.entry[row(s)];
        own.entry[s + 1] = own.entry[s] + count;
    }
    own.next = Block<int32_t>(own.entry[p_.states]);
    own.weight = Block<T>(own.entry[p_.states]);
    for (int64_t s = 0; s < p_.states; ++s) {
        own.reward[s] = action[s] < 0 ? T(0) : p_.reward[row(s)];
        if (action[s] < 0) continue;
        const int64_t from = p_.entry[row(s)], count = own.entry[s + 1] - own.entry[s];
        std::copy_n(p_.next + from, count, own.next.data() + own.entry[s]);
        std::copy_n(p_.weight + from, count, own.weight.data() + own.entry[s]);
    }
    return owning(std::move(own));
}

template <class T> std::unique_ptr<Model<T>> Model<T>::permuted(const int32_t* order) const {
    Arrays<T> own;
    const int64_t n = p_.states, all = rows();
    std::vector<int32_t> place(static_cast<size_t>(n));
    for (int64_t t = 0; t < n; ++t) place[size_t(order[t])] = int32_t(t);
    own.row = Block<int64_t>(n + 1);
    own.entry = Block<int64_t>(all + 1);
    own.reward = Block<T>(all);
    own.next = Block<int32_t>(p_.entry[all]);
    own.weight = Block<T>(p_.entry[all]);
    int64_t row = 0, to = 0;
    own.row[0] = own.entry[0] = 0;
    for (int64_t t = 0; t < n; ++t) {
        for (int64_t j = p_.row[order[t]]; j < p_.row[order[t] + 1]; ++j) {
            for (int64_t e = p_.entry[j]; e < p_.entry[j + 1]; ++e) {
                own.next[to] = place[size_t(p_.next[e])];
                own.weight[to] = p_.weight[e];
                ++to;
            }
            own.reward[row] = p_.reward[j];
            own.entry[++row] = to;
        }
        own.row[t + 1] = row;
    }
    const int64_t* const rows_of_states = own.row.data(); // before `own` is moved from
    return owning(std::move(own), rows_of_states);
}

template <class T> std::unique_ptr<Model<T>> Model<T>::transposed() const {
    Arrays<T> own;
    const int64_t n = p_.states, entries = p_.entry[n];
    own.entry = Block<int64_t>(n + 1);
    own.reward = Block<T>(n);
    own.next = Block<int32_t>(entries);
    own.weight = Block<T>(entries);
    std::fill_n(own.reward.data(), n, T(0));
    std::fill_n(own.entry.data(), n + 1, 0);
    for (int64_t e = 0; e < entries; ++e) ++own.entry[p_.next[e] + 1];
    for (int64_t s = 0; s < n; ++s) own.entry[s + 1] += own.entry[s];
    std::vector<int64_t> at(own.entry.data(), own.entry.data() + n);
    for (int64_t s = 0; s < n; ++s)
        for (int64_t e = p_.entry[s]; e < p_.entry[s + 1]; ++e) {
            const int64_t to = at[size_t(p_.next[e])]++;
            own.next[to] = int32_t(s);
            own.weight[to] = p_.weight[e];
        }
    return owning(std::move(own));
}

template <class T> std::unique_ptr<Model<T>> Model<T>::owning(Arrays<T> own, const int64_t* row) const {
    const Process<T> p{p_.states, row, own.entry.data(), own.next.data(), own.weight.data(), own.reward.data()};
    return std::make_unique<Model<T>>(p, std::move(own));
}

// The first state of a part; parts have nearly equal numbers of entries and rows.
template <class T> int64_t Model<T>::bound(int part, int parts) const {
    return first_of_part(0, p_.states, part, parts, [&](int64_t s) {
        const int64_t j = p_.row ? p_.row[s] : s;
        return p_.entry[j] + j;
    });
}

template class Model<float>;
template class Model<double>;

} // namespace fastiter::mdp
