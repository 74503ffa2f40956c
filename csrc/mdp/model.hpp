// Decision processes for the bindings: borrowed or owned arrays, and the operators on value vectors.
#pragma once
#include "core/memory.hpp"
#include "mdp/cpu/kernels.hpp"
#include "mdp/elimination.hpp"
#include <memory>

namespace fastiter::mdp {

class Model {
public:
    virtual ~Model() = default;
    // Applies v <- T v `count` times, alternating between the buffers v and w; the result is in w if count is odd, else
    // in v. Returns the changes of the last application. action (states) receives its actions. reward null: the
    // process's own rewards.
    virtual Span backup(void* v, void* w, int32_t* action, int64_t count, double discount, const void* reward) = 0;
    // The same on the calling thread only, with the process's own rewards
    virtual Span alone(void* v, void* w, int32_t* action, int64_t count, double discount) = 0;
    virtual double sweep(void* v, const int32_t* order, int64_t count, double discount, double omega, bool exact) = 0;
    virtual void backups(const void* v, const int32_t* states, int64_t count, double discount, double* w) = 0;
    virtual void action_values(const void* v, void* q, double discount) = 0;
    // The Markov chain of a policy, action (states): one row for each state, empty where the action is -1
    virtual std::unique_ptr<Model> chain(const int32_t* action) = 0;
    // A copy whose state t is state order[t]
    virtual std::unique_ptr<Model> permuted(const int32_t* order) = 0;
    // The transpose of a chain, with rewards of 0
    virtual std::unique_ptr<Model> transposed() = 0;
    // The arrays of a chain
    virtual Links links() const = 0;
    virtual int64_t states() const = 0;
    virtual int64_t entries() const = 0;
};

// Borrows the arrays of the process.
template <class T> std::unique_ptr<Model> model_of(const Process<T>& process);

// Prioritized sweeping, in instalments: a heap of the states by |T v - v|, largest first.
class Prioritized {
public:
    virtual ~Prioritized() = default;
    // Pops states from the heap until at least `enough` backups, of these states and their predecessors, have been
    // made, but never more than `most`. Returns the numbers of states and of backups. With fewer than `enough` backups,
    // the heap is empty and |T v - v| <= tolerance in all states, unless the next state would have exceeded `most`.
    virtual std::pair<int64_t, int64_t> run(void* v, int64_t enough, int64_t most) = 0;
};
// start (states + 1), before: the predecessors of each state, concatenated
std::unique_ptr<Prioritized> prioritized(Model&, bool is_double, const int64_t* start, const int32_t* before,
                                         double discount, double tolerance);

} // namespace fastiter::mdp
