// Bellman operators of a finite Markov decision process. The actions of state s are the rows row[s] .. row[s + 1], and
// row j has a reward and the entries entry[j] .. entry[j + 1], each a next state and its weight (a probability, times
// the row's own discount in a semi-Markov process):
//
//   q_j = reward_j + discount * sum over e of weight_e v[next_e]           w_s = max over the rows j of s of q_j
//
// Values are stored as T and accumulated in double. Sums follow the storage order of the entries, without fused
// multiply-add, and each state is computed by one thread, so that results are bitwise the same for every instruction
// set and number of threads. Ties go to the lowest row. A state without rows is terminal: its value is 0, its action
// -1.
//
// Pairs of a state and an action may share the entries of a row: the afterstate that both lead to before chance decides.
// Then the entries are those of the shared rows, and pair j has the sum of row pair[j], which a sweep computes once:
//
//   expected_x = sum over e of weight_e v[next_e]           q_j = reward_j + discount * expected[pair_j]
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"

FASTITER_FAMILY(mdp)

namespace fastiter::mdp {

template <class T> struct Process {
    int64_t states = 0;
    const int64_t* row = nullptr;   // (states + 1); null: one row for each state
    const int64_t* entry = nullptr; // (rows + 1), or (shared + 1)
    const int32_t* next = nullptr;  // (entries)
    const T* weight = nullptr;      // (entries)
    const T* reward = nullptr;      // (rows)
    int64_t length = 0;             // number of entries in every row; 0: it varies
    double discount = 1;
    const int32_t* pair = nullptr; // (rows): the shared row of each pair; null: each has its own
    int64_t shared = 0;            // the number of shared rows
    double* expected = nullptr;    // (shared): the sums of a sweep, for the kernels that read them

    // The row whose entries are those of pair j
    int64_t at(int64_t j) const { return pair ? pair[j] : j; }
};

// The smallest and the largest w - v of the states in a range; inf and -inf for an empty range
struct Span {
    double low = 0, high = 0;
};

// v and w (states) must not overlap. action (states) receives the index of the best row within its state; null: not
// needed. States [first, last) are updated.
template <class T> struct Backup {
    const T* v = nullptr;
    T* w = nullptr;
    int32_t* action = nullptr;
    int64_t first = 0, last = 0;
};

// One sweep in place, in the given order of states (null: ascending), with v_s <- v_s + omega (w_s - v_s). exact:
// solves for v_s where a row leads back to s,
// q_j = (reward_j + discount * sum without s) / (1 - discount * weight of s).
template <class T> struct Sweep {
    T* v = nullptr;
    const int32_t* order = nullptr;
    int64_t count = 0; // number of states in the order
    double omega = 1;
    bool exact = true;
};

// The values of a stochastic policy one step earlier, for states [first, last), and a step of its gradient: with e_j the
// sum over the entries of pair j,
//
//   w_s = base_s + discount * sum over the pairs j of s of policy_j e_j           share_j += visits_s e_j
template <class T> struct Earlier {
    const T *v = nullptr, *base = nullptr, *policy = nullptr, *visits = nullptr;
    T* w = nullptr;
    double* share = nullptr;
    int64_t first = 0, last = 0;
};

template <class T> struct KernelsOf {
    // Computes p.expected from v for the shared rows [first, last). The next three functions and earlier
    // read it if it is not null.
    void (*expect)(const Process<T>& p, const T* v, int64_t first, int64_t last);
    Span (*backup)(const Process<T>&, const Backup<T>&);
    // Computes w only, for a process with one row per state.
    void (*evaluate)(const Process<T>&, const Backup<T>&);
    void (*action_values)(const Process<T>&, const T* v, T* q, int64_t first, int64_t last); // rows [first, last)
    double (*sweep)(const Process<T>&, const Sweep<T>&); // returns the largest |change|
    void (*earlier)(const Process<T>&, const Earlier<T>&);
    // w[i] = the backup of states[i]
    void (*backups)(const Process<T>&, const T* v, const int32_t* states, int64_t count, double* w);
};

using Kernels = ByType<KernelsOf<float>, KernelsOf<double>>;

FASTITER_TABLE(Kernels, kernels)

} // namespace fastiter::mdp
