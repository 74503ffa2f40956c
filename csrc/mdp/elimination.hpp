// The values of a Markov chain by elimination of its states, one after the other, in place of iterations.
#pragma once
#include "core/cpu/team.hpp"
#include <cstdint>
#include <memory>
#include <vector>

namespace fastiter::mdp {

// The arrays of a chain, borrowed: state s has the entries entry[s] .. entry[s + 1], none if it has no successor.
struct Links {
    int64_t states = 0;
    const int64_t* entry = nullptr;
    const int32_t* next = nullptr;
    const void *weight = nullptr, *reward = nullptr; // double if is_double, else float
    bool is_double = true;
};

constexpr int64_t kPerBlock = 4; // operations of reducing eight columns of a row by those of another row

// A number of operations that must not be exceeded: those made, and those to which an order of elimination will lead
struct Budget {
    int64_t most = 0, used = 0, ahead = 0;
    bool is_spent() const { return used + ahead > most; }
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
    virtual ~Elimination() = default;
    // Sets v (states), and returns true; or returns false if this would take more than `most` operations. reward null:
    // the chain's own. The order of elimination is kept for the next chain, as long as it suits it about as well.
    virtual bool solve(const Links& chain, double discount, const void* reward, void* v, int64_t most) = 0;
    // Operations, about a nanosecond each, of all calls
    int64_t operations() const { return operations_; }

protected:
    int64_t operations_ = 0;
};
std::unique_ptr<Elimination> elimination();

} // namespace fastiter::mdp
