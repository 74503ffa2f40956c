// Blocks of a symmetric sparse matrix whose graph is a forest: exact updates by elimination from leaves to roots.
#pragma once
#include "bcd/cpu/kernels.hpp"
#include "core/memory.hpp"
#include <cstdint>
#include <vector>

namespace fastiter::bcd {

struct Graph { // a symmetric matrix in compressed rows, the diagonal included
    int64_t n = 0;
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
    const double* value = nullptr;
};

// Puts each node, in the given order, into the first block in which it closes no cycle. Without `edges`, the nodes of a
// block must be independent. order null: breadth first, for which two blocks of independent nodes are enough if the
// graph has no odd cycle. Returns the block of each node.
std::vector<int32_t> forest_partition(const Graph& graph, const int32_t* order, bool edges);

class Forests {
public:
    // block (n): the block of each node; null: no fixed blocks
    Forests(const Graph& graph, const int32_t* block, int32_t count);

    // Sets `count` blocks, in cyclic order from `first` on, to the minimiser of x A x / 2 - b x in each. Returns the
    // number of updates done, which is smaller after a request to stop.
    int64_t run(const double* b, double* x, int64_t first, int64_t count, const Team& team) const;
    // The same, with a block chosen at each step: adds nodes by decreasing |gradient|, except those with two neighbours
    // in the same tree. gradient (n), A x - b, is updated with x. sizes receives the size of each block. If a block has
    // a pivot that is not positive, returns -1 - the number of updates done.
    int64_t run_greedy(double* x, double* gradient, int64_t count, int64_t* sizes, const Team& team) const;
    bool has_cycles() const { return has_cycles_; } // whether a block contains a cycle and so is no forest
    bool has_signs() const { return has_signs_; }   // whether a pivot is not positive

private:
    // Trees in the order of elimination. The entries outside the block are stored contiguously in the same order.
    struct Trees {
        std::vector<int32_t> node, parent;  // parent: position in that order, -1 for a root; empty: all are roots
        std::vector<double> inverse, ratio; // 1 / pivot; a(node, parent) / pivot
        std::vector<int64_t> start;
        std::vector<int32_t> column;
        std::vector<double> value;
    };
    bool eliminate(Trees& trees, std::vector<int32_t>& place, bool with_entries) const;
    bool factor(Trees& trees, const std::vector<int32_t>& place, bool with_entries) const;
    void pack(const std::vector<Trees>& blocks);

    Graph g_;
    Block<> memory_; // the arrays of all plans, from 128 KB on in pages of 2 MB
    std::vector<ForestState> plans_;
    int64_t work_ = 0; // size of the largest block with links
    bool has_cycles_ = false, has_signs_ = false;
};

} // namespace fastiter::bcd
