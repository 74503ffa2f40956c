// The values of a Markov chain by elimination of its states, one after the other, in place of iterations.
#pragma once
#include "core/cpu/team.hpp"
#include <cstdint>
#include <vector>

namespace fastiter::mdp {

// The arrays of a chain, borrowed: state s has the entries begin(s) .. end(s), none if it has no successor.
template <class T> struct Links {
    int64_t states = 0;
    const int64_t* entry = nullptr;
    const int32_t* next = nullptr;
    const T *weight = nullptr, *reward = nullptr;
    const int32_t* pair = nullptr; // (states): the state's row, if states share rows

    int64_t begin(int64_t s) const { return entry[pair ? pair[s] : s]; }
    int64_t end(int64_t s) const { return entry[(pair ? pair[s] : s) + 1]; }
};

constexpr int64_t kPerBlock = 4; // operations of reducing eight columns of a row by those of another row

// A number of operations that must not be exceeded: those made, and those to which an order of elimination will lead
struct Budget {
    int64_t limit = 0, used = 0, ahead = 0;
    bool is_spent() const { return used + ahead > limit; }
};

// A graph of states without loops, in which j is adjacent to i if either leads to the other: start (states + 1)
struct Graph {
    std::vector<int64_t> start;
    std::vector<int32_t> adjacent;
};

// An order of elimination that adds few transitions: approximate minimum degree, states of very high degree last.
// Empty if elimination would exceed the budget, or after a request to stop.
std::vector<int32_t> elimination_order(Graph graph, const std::vector<uint8_t>& is_included, Budget& budget,
                                       const Team& team);

// Solves (1 - discount P) v = r.
class Elimination {
public:
    // Sets v (states), and returns true; or returns false if this would take more than `limit` operations. The order of
    // elimination is kept for the next chain, as long as it suits it about as well.
    template <class T> bool solve(const Links<T>& chain, double discount, const T* reward, T* v, int64_t limit);
    // Operations, about a nanosecond each, of all calls
    int64_t operations() const { return operations_; }

private:
    template <class T>
    bool solve(const Links<T>& chain, double discount, const T* reward, T* v, int64_t limit, const Team& team);
    template <class T> bool fits(const Links<T>& chain) const;

    int64_t operations_ = 0;
    std::vector<int32_t> order_;
    std::vector<uint8_t> is_included_;
    int64_t hopeless_ = 0; // a number of operations that was not enough for the last order
    int64_t first_ = 0;    // operations of the first elimination in this order; 0: there is no order
};

} // namespace fastiter::mdp
