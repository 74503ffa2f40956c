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

struct Range {
    int64_t first = 0, last = 0;
};

// Applies T `count` times to a range of states; `meet` is called between two applications, and between the sums over
// a range of shared rows and the choices among pairs.
template <class T, class F>
Span repeated(const Process<T>& p, Vectors<T> x, int64_t count, Range states, Range shared, F meet) {
    const auto& table = kernels().of<KernelsOf<T>>();
    Span span;
    for (int64_t k = 0; k < count; ++k) {
        const bool is_last = k + 1 == count;
        const Backup<T> b{x.v, x.w, is_last ? x.action : nullptr, states.first, states.last};
        if (p.expected) {
            table.expect(p, x.v, shared.first, shared.last);
            meet();
        }
        if (is_last || p.row)
            span = table.backup(p, b);
        else
            table.evaluate(p, b);
        if (!is_last) meet();
        std::swap(x.v, x.w);
    }
    return span;
}

// The sums of a sweep over shared rows, if there are any
class Sums {
public:
    template <class T> explicit Sums(Process<T>& p) {
        if (!p.pair) return;
        block_ = Block<double>(p.shared);
        p.expected = block_.data();
    }

private:
    Block<double> block_;
};

// The rows in the order of their first use, -1 for an empty one
class Used {
public:
    explicit Used(int64_t shared) : place_(size_t(shared + 1), -1) {}

    int32_t operator()(int64_t row) {
        int32_t& place = place_[size_t(row + 1)];
        if (place < 0) {
            place = int32_t(rows.size());
            rows.push_back(row);
        }
        return place;
    }

    std::vector<int64_t> rows;

private:
    std::vector<int32_t> place_;
};

} // namespace

int64_t length_of_rows(const int64_t* entry, int64_t rows) {
    const int64_t length = rows ? entry[1] - entry[0] : 0;
    if (length > 5 || entry[0]) return 0; // the kernels unroll up to 5
    for (int64_t j = 1; j < rows; ++j)
        if (entry[j + 1] - entry[j] != length) return 0;
    return length;
}

template <class T> Model<T>::Model(const Process<T>& p, Arrays<T> own) : p_(p), own_(std::move(own)) {
    p_.length = length_of_rows(p_.entry, p_.pair ? p_.shared : rows());
}

template <class T> Process<T> Model<T>::with(double discount, const T* reward) const {
    Process<T> p = p_;
    p.discount = discount;
    if (reward) p.reward = reward;
    return p;
}

template <class T> Span Model<T>::backup(Vectors<T> x, int64_t count, double discount, const T* reward) const {
    Process<T> p = with(discount, reward);
    const Sums sums(p);
    std::vector<Span> spans;
    launch(
        [&](Team team) {
            const auto meet = [&] {
                if (team.size > 1) wait(team.barriers[0], team.size);
            };
            const Range states{bound(team.id, team.size), bound(team.id + 1, team.size)};
            const Range shared{shared_bound(team.id, team.size), shared_bound(team.id + 1, team.size)};
            spans[size_t(team.id)] = repeated(p, x, count, states, shared, meet);
        },
        [&](int threads) {
            const int used = threads_for(work(), kMinEntries, threads);
            spans.assign(size_t(used), {});
            return used;
        });
    Span all = spans[0];
    for (const Span& s : spans) all = {std::min(all.low, s.low), std::max(all.high, s.high)};
    return all;
}

template <class T> Span Model<T>::backup_alone(Vectors<T> x, int64_t count, double discount) const {
    Process<T> p = with(discount);
    const Sums sums(p);
    return repeated(p, x, count, {0, p.states}, {0, p.shared}, [] {});
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
    Process<T> p = with(discount);
    const Sums sums(p);
    const auto& table = kernels().of<KernelsOf<T>>();
    launch(
        [&](Team team) {
            if (p.expected) {
                table.expect(p, v, shared_bound(team.id, team.size), shared_bound(team.id + 1, team.size));
                if (team.size > 1) wait(team.barriers[0], team.size);
            }
            table.action_values(p, v, q, rows() * team.id / team.size, rows() * (team.id + 1) / team.size);
        },
        [&](int threads) { return threads_for(entries(), kMinEntries, threads); });
}

template <class T> std::unique_ptr<Model<T>> Model<T>::chain(const int32_t* action) const {
    if (p_.pair) return shared_chain(action);
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
    return owning(std::move(own), true);
}

template <class T>
void Model<T>::copy_rows(const std::vector<int64_t>& from, const int32_t* next, Arrays<T>& own) const {
    const int64_t count = int64_t(from.size());
    own.entry = Block<int64_t>(count + 1);
    own.entry[0] = 0;
    for (int64_t x = 0; x < count; ++x) {
        const int64_t row = from[size_t(x)];
        own.entry[x + 1] = own.entry[x] + (row < 0 ? 0 : p_.entry[row + 1] - p_.entry[row]);
    }
    own.next = Block<int32_t>(own.entry[count]);
    own.weight = Block<T>(own.entry[count]);
    for (int64_t x = 0; x < count; ++x)
        for (int64_t e = own.entry[x]; e < own.entry[x + 1]; ++e) {
            const int64_t other = p_.entry[from[size_t(x)]] + e - own.entry[x];
            own.next[e] = next ? next[p_.next[other]] : p_.next[other];
            own.weight[e] = p_.weight[other];
        }
}

template <class T> std::unique_ptr<Model<T>> Model<T>::shared_chain(const int32_t* action) const {
    Arrays<T> own;
    own.reward = Block<T>(p_.states);
    own.pair = Block<int32_t>(p_.states);
    Used used(p_.shared);
    for (int64_t s = 0; s < p_.states; ++s) {
        const int64_t j = p_.row ? p_.row[s] + action[s] : s;
        own.reward[s] = action[s] < 0 ? T(0) : p_.reward[j];
        own.pair[s] = used(action[s] < 0 ? -1 : p_.pair[j]);
    }
    copy_rows(used.rows, nullptr, own);
    return owning(std::move(own), true, int64_t(used.rows.size()));
}

template <class T> std::unique_ptr<Model<T>> Model<T>::permuted(const int32_t* order) const {
    Arrays<T> own;
    const int64_t n = p_.states, all = rows();
    std::vector<int32_t> place(static_cast<size_t>(n));
    for (int64_t t = 0; t < n; ++t) place[size_t(order[t])] = int32_t(t);
    own.row = Block<int64_t>(n + 1);
    own.reward = Block<T>(all);
    if (p_.pair) own.pair = Block<int32_t>(all);
    Used used(p_.pair ? p_.shared : all);
    int64_t row = 0;
    own.row[0] = 0;
    for (int64_t t = 0; t < n; ++t) {
        for (int64_t j = p_.row[order[t]]; j < p_.row[order[t] + 1]; ++j, ++row) {
            const int32_t x = used(p_.at(j));
            if (p_.pair) own.pair[row] = x;
            own.reward[row] = p_.reward[j];
        }
        own.row[t + 1] = row;
    }
    copy_rows(used.rows, place.data(), own);
    return owning(std::move(own), false, p_.pair ? int64_t(used.rows.size()) : 0);
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
    return owning(std::move(own), true);
}

// shared: the number of shared rows, 0 if each pair has its own
template <class T> std::unique_ptr<Model<T>> Model<T>::owning(Arrays<T> own, bool is_chain, int64_t shared) const {
    Process<T> p{p_.states,         is_chain ? nullptr : own.row.data(),
                 own.entry.data(),  own.next.data(),
                 own.weight.data(), own.reward.data()};
    p.pair = shared ? own.pair.data() : nullptr;
    p.shared = shared;
    return std::make_unique<Model<T>>(p, std::move(own));
}

// The first state of a part; parts have nearly equal numbers of entries and rows.
template <class T> int64_t Model<T>::bound(int part, int parts) const {
    return first_of_part(0, p_.states, part, parts, [&](int64_t s) {
        const int64_t j = p_.row ? p_.row[s] : s;
        return p_.pair ? j + s : p_.entry[j] + j;
    });
}

template <class T> int64_t Model<T>::shared_bound(int part, int parts) const {
    return first_of_part(0, p_.shared, part, parts, [&](int64_t x) { return p_.entry[x] + x; });
}

template class Model<float>;
template class Model<double>;

} // namespace fastiter::mdp
