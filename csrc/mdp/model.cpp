// Runs the kernels on teams of threads, and builds the Markov chains of policies.
#include "mdp/model.hpp"
#include "core/dispatch.hpp"
#include "core/launch.hpp"
#include "core/rows.hpp"
#include <algorithm>
#include <limits>
#include <vector>

namespace fastiter::mdp {
namespace {

constexpr int64_t kLeast = 1 << 14; // entries per thread

// The arrays of a chain
template <class T> struct Arrays {
    Block<int64_t> row, entry;
    Block<int32_t> next;
    Block<T> weight, reward;
};

template <class T> class ModelOf : public Model {
public:
    explicit ModelOf(const Process<T>& p, Arrays<T> own = {}) : p_(p), own_(std::move(own)) {
        const int64_t rows = this->rows();
        p_.length = rows ? p_.entry[1] - p_.entry[0] : 0;
        if (p_.length > 5) p_.length = 0; // the kernels unroll up to 5
        for (int64_t j = 1; j < rows && p_.length; ++j)
            if (p_.entry[j + 1] - p_.entry[j] != p_.length) p_.length = 0;
        if (p_.entry[0]) p_.length = 0;
    }

    Links links() const override {
        return {p_.states, p_.entry, p_.next, p_.weight, p_.reward, sizeof(T) == sizeof(double)};
    }
    int64_t states() const override { return p_.states; }
    int64_t entries() const override { return p_.entry[rows()]; }
    int64_t rows() const { return p_.row ? p_.row[p_.states] : p_.states; }

    Span backup(void* v, void* w, int32_t* action, int64_t count, double discount, const void* reward) override {
        Process<T> p = p_;
        p.discount = discount;
        if (reward) p.reward = static_cast<const T*>(reward);
        const auto kernel = kernels().of<KernelsOf<T>>().backup;
        const auto evaluate = kernels().of<KernelsOf<T>>().evaluate;
        std::vector<Span> spans;
        auto prepare = [&](int threads) {
            const int used = threads_for(p.entry[rows()] + rows(), kLeast, threads);
            spans.assign(size_t(used), {});
            return used;
        };
        launch(
            [&](Team team) {
                Backup<T> b{static_cast<const T*>(v), static_cast<T*>(w), nullptr, bound(team.id, team.size),
                            bound(team.id + 1, team.size)};
                for (int64_t k = 0; k < count; ++k) {
                    if (k + 1 == count) b.action = action;
                    if (k + 1 < count && !p.row)
                        evaluate(p, b);
                    else
                        spans[size_t(team.id)] = kernel(p, b);
                    if (k + 1 < count && team.size > 1) wait(team.barriers[0], team.size);
                    T* from = const_cast<T*>(b.v);
                    b.v = b.w, b.w = from;
                }
            },
            prepare);
        Span all = spans[0];
        for (const Span& s : spans) all = {std::min(all.low, s.low), std::max(all.high, s.high)};
        return all;
    }

    Span alone(void* v, void* w, int32_t* action, int64_t count, double discount) override {
        Process<T> p = p_;
        p.discount = discount;
        Backup<T> b{static_cast<const T*>(v), static_cast<T*>(w), nullptr, 0, p.states};
        Span span;
        for (int64_t k = 0; k < count; ++k) {
            if (k + 1 == count) b.action = action;
            if (k + 1 < count && !p.row)
                kernels().of<KernelsOf<T>>().evaluate(p, b);
            else
                span = kernels().of<KernelsOf<T>>().backup(p, b);
            T* from = const_cast<T*>(b.v);
            b.v = b.w, b.w = from;
        }
        return span;
    }

    double sweep(void* v, const int32_t* order, int64_t count, double discount, double omega, bool exact) override {
        Process<T> p = p_;
        p.discount = discount;
        return kernels().of<KernelsOf<T>>().sweep(p, {static_cast<T*>(v), order, count, omega, exact});
    }

    void backups(const void* v, const int32_t* states, int64_t count, double discount, double* w) override {
        Process<T> p = p_;
        p.discount = discount;
        kernels().of<KernelsOf<T>>().backups(p, static_cast<const T*>(v), states, count, w);
    }

    void action_values(const void* v, void* q, double discount) override {
        Process<T> p = p_;
        p.discount = discount;
        const auto kernel = kernels().of<KernelsOf<T>>().action_values;
        launch(
            [&](Team team) {
                kernel(p, static_cast<const T*>(v), static_cast<T*>(q), rows() * team.id / team.size,
                       rows() * (team.id + 1) / team.size);
            },
            [&](int threads) { return threads_for(p.entry[rows()], kLeast, threads); });
    }

    std::unique_ptr<Model> chain(const int32_t* action) override {
        Arrays<T> own;
        own.entry = Block<int64_t>(p_.states + 1), own.reward = Block<T>(p_.states);
        own.entry[0] = 0;
        auto row = [&](int64_t s) { return p_.row ? p_.row[s] + action[s] : s; };
        for (int64_t s = 0; s < p_.states; ++s) {
            const int64_t count = action[s] < 0 ? 0 : p_.entry[row(s) + 1] - p_.entry[row(s)];
            own.entry[s + 1] = own.entry[s] + count;
        }
        own.next = Block<int32_t>(own.entry[p_.states]), own.weight = Block<T>(own.entry[p_.states]);
        for (int64_t s = 0; s < p_.states; ++s) {
            own.reward[s] = action[s] < 0 ? T(0) : p_.reward[row(s)];
            if (action[s] < 0) continue;
            const int64_t from = p_.entry[row(s)], count = own.entry[s + 1] - own.entry[s];
            std::copy_n(p_.next + from, count, own.next.data() + own.entry[s]);
            std::copy_n(p_.weight + from, count, own.weight.data() + own.entry[s]);
        }
        return owning(std::move(own));
    }

    std::unique_ptr<Model> permuted(const int32_t* order) override {
        Arrays<T> own;
        const int64_t n = p_.states, all = rows();
        std::vector<int32_t> place(static_cast<size_t>(n));
        for (int64_t t = 0; t < n; ++t) place[size_t(order[t])] = int32_t(t);
        own.row = Block<int64_t>(n + 1), own.entry = Block<int64_t>(all + 1), own.reward = Block<T>(all);
        own.next = Block<int32_t>(p_.entry[all]), own.weight = Block<T>(p_.entry[all]);
        int64_t row = 0, to = 0;
        own.row[0] = own.entry[0] = 0;
        for (int64_t t = 0; t < n; ++t) {
            for (int64_t j = p_.row[order[t]]; j < p_.row[order[t] + 1]; ++j) {
                for (int64_t e = p_.entry[j]; e < p_.entry[j + 1]; ++e, ++to)
                    own.next[to] = place[size_t(p_.next[e])], own.weight[to] = p_.weight[e];
                own.reward[row] = p_.reward[j];
                own.entry[++row] = to;
            }
            own.row[t + 1] = row;
        }
        const int64_t* const rows_of_states = own.row.data(); // before `own` is moved from
        return owning(std::move(own), rows_of_states);
    }

    std::unique_ptr<Model> transposed() override {
        Arrays<T> own;
        const int64_t n = p_.states, entries = p_.entry[n];
        own.entry = Block<int64_t>(n + 1), own.reward = Block<T>(n);
        own.next = Block<int32_t>(entries), own.weight = Block<T>(entries);
        std::fill_n(own.reward.data(), n, T(0));
        std::fill_n(own.entry.data(), n + 1, 0);
        for (int64_t e = 0; e < entries; ++e) ++own.entry[p_.next[e] + 1];
        for (int64_t s = 0; s < n; ++s) own.entry[s + 1] += own.entry[s];
        std::vector<int64_t> at(own.entry.data(), own.entry.data() + n);
        for (int64_t s = 0; s < n; ++s)
            for (int64_t e = p_.entry[s]; e < p_.entry[s + 1]; ++e) {
                const int64_t to = at[size_t(p_.next[e])]++;
                own.next[to] = int32_t(s), own.weight[to] = p_.weight[e];
            }
        return owning(std::move(own));
    }

private:
    std::unique_ptr<Model> owning(Arrays<T> own, const int64_t* row = nullptr) const {
        const Process<T> p{p_.states, row, own.entry.data(), own.next.data(), own.weight.data(), own.reward.data()};
        return std::make_unique<ModelOf<T>>(p, std::move(own));
    }

    // The first state of a part; parts have nearly equal numbers of entries and rows.
    int64_t bound(int part, int parts) const {
        return first_of_part(0, p_.states, part, parts, [&](int64_t s) {
            const int64_t j = p_.row ? p_.row[s] : s;
            return p_.entry[j] + j;
        });
    }

    Process<T> p_;
    Arrays<T> own_;
};

} // namespace

template <class T> std::unique_ptr<Model> model_of(const Process<T>& process) {
    return std::make_unique<ModelOf<T>>(process);
}
template std::unique_ptr<Model> model_of(const Process<float>&);
template std::unique_ptr<Model> model_of(const Process<double>&);

} // namespace fastiter::mdp
