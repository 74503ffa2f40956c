// Decision processes for the bindings: borrowed or owned arrays, and the operators on value vectors.
#pragma once
#include "core/memory.hpp"
#include "mdp/cpu/kernels.hpp"
#include "mdp/elimination.hpp"
#include <memory>
#include <queue>
#include <utility>
#include <vector>

namespace fastiter::mdp {

// Process::length of rows with these entries
int64_t length_of_rows(const int64_t* entry, int64_t rows);

// The arrays of a model that owns them
template <class T> struct Arrays {
    Block<int64_t> row, entry;
    Block<int32_t> next;
    Block<T> weight, reward;
    Block<int32_t> pair = {};
};

// The vectors of repeated backups, (states): action receives those of the last one; null: not needed
template <class T> struct Vectors {
    T* v = nullptr;
    T* w = nullptr;
    int32_t* action = nullptr;
};

template <class T> class Model {
public:
    // Borrows the arrays of the process, except for its own.
    explicit Model(const Process<T>&, Arrays<T> own = {});

    // Applies v <- T v `count` times, alternating between the buffers v and w; the result is in w if count is odd, else
    // in v. Returns the changes of the last application. reward null: the process's own rewards.
    Span backup(Vectors<T>, int64_t count, double discount, const T* reward = nullptr) const;
    // The same on the calling thread only
    Span backup_alone(Vectors<T>, int64_t count, double discount) const;
    double sweep(T* v, const int32_t* order, int64_t count, double discount, double omega, bool exact) const;
    // w[i] = the backup of states[i]
    void backups(const T* v, const int32_t* states, int64_t count, double discount, double* w) const;
    void action_values(const T* v, T* q, double discount) const;
    // The Markov chain of a policy, action (states): one row for each state, empty where the action is -1. It has the
    // entries of the shared rows that the policy uses, each once.
    std::unique_ptr<Model> chain(const int32_t* action) const;
    // A copy whose state t is state order[t]
    std::unique_ptr<Model> permuted(const int32_t* order) const;
    // The transpose of a chain without shared rows, with rewards of 0
    std::unique_ptr<Model> transposed() const;
    // The arrays of a chain
    Links<T> links() const { return {p_.states, p_.entry, p_.next, p_.weight, p_.reward, p_.pair}; }
    int64_t states() const { return p_.states; }
    int64_t entries() const { return p_.entry[p_.pair ? p_.shared : rows()]; }

private:
    int64_t rows() const { return p_.row ? p_.row[p_.states] : p_.states; }
    Process<T> with(double discount, const T* reward = nullptr) const;
    std::unique_ptr<Model> owning(Arrays<T> own, bool is_chain, int64_t shared = 0) const;
    // Copies the entries of the given rows, with next[t] in place of t if next is not null.
    void copy_rows(const std::vector<int64_t>& from, const int32_t* next, Arrays<T>& own) const;
    std::unique_ptr<Model> shared_chain(const int32_t* action) const;
    int64_t bound(int part, int parts) const;
    int64_t shared_bound(int part, int parts) const;
    int64_t work() const { return entries() + rows() + p_.shared; }

    Process<T> p_;
    Arrays<T> own_;
};

// The work of a call of prioritized sweeping
struct Popped {
    int64_t states = 0, backups = 0;
};

// Prioritized sweeping, in instalments: a heap of the states by |T v - v|, largest first.
template <class T> class Prioritized {
public:
    // start (states + 1), before: the predecessors of each state, concatenated
    Prioritized(const Model<T>&, const int64_t* start, const int32_t* before, double discount, double tolerance);

    // Pops states from the heap until at least `enough` backups, of these states and their predecessors, have been
    // made, but never more than `limit`. With fewer than `enough` backups, the heap is empty and |T v - v| <= tolerance
    // in all states, unless the next state would have exceeded `limit`.
    Popped run(T* v, int64_t enough, int64_t limit);

private:
    void begin(const T* v);
    void update(const T* v, int32_t s, double target);

    const Model<T>& model_;
    const int64_t* start_;
    const int32_t* before_;
    double discount_, tolerance_;
    std::vector<double> target_, priority_;
    std::priority_queue<std::pair<double, int32_t>> heap_;
};

} // namespace fastiter::mdp
