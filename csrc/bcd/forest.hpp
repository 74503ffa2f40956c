// Blocks of a symmetric sparse matrix whose graph is a forest: exact updates by elimination from the leaves to the roots.
#pragma once
#include "core/cpu/team.hpp"
#include <cstdint>
#include <vector>

namespace fastiter::bcd {

struct Graph { // a symmetric matrix in compressed rows, the diagonal included
    int64_t n = 0;
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
    const double* value = nullptr;
};

// Puts each node, in the given order, into the first block whose trees it does not close to a cycle; edges: whether a
// block may have any, else its nodes are independent. order null: breadth first, in which two blocks of independent nodes
// are enough if there is no odd cycle. Returns the block of each node.
std::vector<int32_t> forest_partition(const Graph& graph, const int32_t* order, bool edges);

class Forests {
public:
    // block (n): the block of each node; null: none is fixed
    Forests(const Graph& graph, const int32_t* block, int32_t count);

    // Updates `count` blocks, in turn from `first` on, to the minimiser of x A x / 2 - b x in each. Returns the number
    // of updates done, smaller after a request to stop.
    int64_t run(const double* b, double* x, int64_t first, int64_t count, const Team& team) const;
    // The same with a block that is chosen in each step: nodes by falling |gradient|, unless two of its neighbours are
    // in one tree. gradient (n), A x - b, changes with x. sizes receives the size of each block. Returns -1 - the number
    // of updates done at a block with a pivot that is not positive.
    int64_t run_greedy(double* x, double* gradient, int64_t count, int64_t* sizes, const Team& team) const;
    bool has_cycles() const { return has_cycles_; } // in a block, which is then no forest
    bool has_signs() const { return has_signs_; }   // whether a pivot is not positive

private:
    // Trees in the order of elimination. Entries outside of the block follow each other in the same order.
    struct Block {
        std::vector<int32_t> node, parent;  // parent: its place in the order, -1: a root; empty: all are roots
        std::vector<double> inverse, ratio; // 1 / pivot; a(node, parent) / pivot
        std::vector<int64_t> start;
        std::vector<int32_t> column;
        std::vector<double> value;
    };
    bool eliminate(Block& block, std::vector<int32_t>& place, bool with_entries) const;

    Graph g_;
    std::vector<Block> blocks_;
    bool has_cycles_ = false, has_signs_ = false;
};

} // namespace fastiter::bcd
