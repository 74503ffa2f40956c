#include "bcd/forest.hpp"
#include "bcd/cpu/kernels.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <utility>

namespace fastiter::bcd {
namespace {

class UnionFind { // with path halving
public:
    explicit UnionFind(int64_t n) : parent_(size_t(n)) { reset(); }
    int32_t root(int32_t i) {
        while (parent_[size_t(i)] != i) i = parent_[size_t(i)] = parent_[size_t(parent_[size_t(i)])];
        return i;
    }
    void join(int32_t i, int32_t j) { parent_[size_t(root(i))] = root(j); }
    void reset() { std::iota(parent_.begin(), parent_.end(), 0); }

private:
    std::vector<int32_t> parent_;
};

// Finds the trees that a node would link. `stamp` (n) holds, for each root, the last node that found it.
struct Joins {
    const Graph& graph;
    UnionFind trees;
    std::vector<int32_t> stamp, roots;

    explicit Joins(const Graph& g) : graph(g), trees(g.n), stamp(size_t(g.n), -1) {}

    void reset() {
        trees.reset();
        std::fill(stamp.begin(), stamp.end(), -1);
    }

    // Whether node i can join the trees of its neighbours in the block: no two neighbours may be in the same tree.
    template <class InBlock> bool join(int32_t i, InBlock in) {
        roots.clear();
        for (int64_t e = graph.start[i]; e < graph.start[i + 1]; ++e) {
            const int32_t j = graph.column[e];
            if (j == i || graph.value[e] == 0 || !in(j)) continue;
            const int32_t root = trees.root(j);
            if (std::exchange(stamp[size_t(root)], i) == i) return false;
            roots.push_back(root);
        }
        for (int32_t root : roots) trees.join(root, i);
        return true;
    }
};

std::vector<int32_t> breadth_first(const Graph& g) {
    std::vector<int32_t> order;
    std::vector<uint8_t> is_known(size_t(g.n), 0);
    size_t at = 0;
    for (int32_t root = 0; root < int32_t(g.n); ++root) {
        if (is_known[size_t(root)]) continue;
        is_known[size_t(root)] = 1;
        for (order.push_back(root); at < order.size(); ++at)
            for (int64_t e = g.start[order[at]]; e < g.start[order[at] + 1]; ++e)
                if (const int32_t j = g.column[e]; !is_known[size_t(j)] && g.value[e] != 0) {
                    is_known[size_t(j)] = 1;
                    order.push_back(j);
                }
    }
    return order;
}

// The nodes of a block, by their positions in it, from the leaves to the roots, and their parents, -1 for roots. Nodes of
// cycles, and of paths between cycles, are missing in `order`.
struct Elimination {
    std::vector<int32_t> order, up;
};

// To pass through memory contiguously, it removes the nodes that are leaves when it comes to them, forward and backward in
// turns, as long as this removes an eighth of the nodes. The rest, paths with many bends, is followed from the leaves.
// links(k, f) calls f for the position of each neighbour in the block.
template <class Links> Elimination from_leaves(size_t n, Links links) {
    std::vector<int32_t> degree(n), left(n), order, up(n, -1);
    std::iota(left.begin(), left.end(), 0);
    for (int32_t k : left) links(k, [&](int32_t) { ++degree[size_t(k)]; });
    const auto is_leaf = [&](int32_t k) { return degree[size_t(k)] == 0 || degree[size_t(k)] == 1; };
    const auto remove = [&](int32_t k) {
        order.push_back(k);
        degree[size_t(k)] = -1;
        links(k, [&](int32_t other) {
            if (degree[size_t(other)] >= 0) up[size_t(k)] = other;
        });
        if (up[size_t(k)] >= 0) --degree[size_t(up[size_t(k)])];
    };
    for (size_t before = 0; before != left.size();) {
        before = left.size();
        for (int32_t k : left)
            if (is_leaf(k)) remove(k);
        std::erase_if(left, [&](int32_t k) { return degree[size_t(k)] < 0; });
        if (left.size() > before - before / 8) break;
        std::reverse(left.begin(), left.end());
    }
    for (int32_t leaf : left)
        for (int32_t k = leaf; k >= 0 && is_leaf(k); k = up[size_t(k)]) remove(k);
    return {std::move(order), std::move(up)};
}

} // namespace

// One pass: each node finds the blocks that refuse it among those of its neighbours. All blocks share one union-find, as
// only nodes of one block are joined.
std::vector<int32_t> forest_partition(const Graph& g, const int32_t* order, bool edges) {
    std::vector<int32_t> block(size_t(g.n), -1), refused_by(size_t(g.n), -1), nodes;
    if (order)
        nodes.assign(order, order + g.n);
    else
        nodes = breadth_first(g);
    Joins joins(g);
    for (int32_t i : nodes) {
        const auto each_neighbour = [&](auto f) {
            for (int64_t e = g.start[i]; e < g.start[i + 1]; ++e)
                if (const int32_t j = g.column[e]; j != i && g.value[e] != 0 && block[size_t(j)] >= 0) f(j);
        };
        each_neighbour([&](int32_t j) {
            if (!edges || std::exchange(joins.stamp[size_t(joins.trees.root(j))], i) == i)
                refused_by[size_t(block[size_t(j)])] = i;
        });
        int32_t first = 0;
        while (refused_by[size_t(first)] == i) ++first;
        if (edges)
            each_neighbour([&](int32_t j) {
                if (block[size_t(j)] == first) joins.trees.join(j, i);
            });
        block[size_t(i)] = first;
    }
    return block;
}

// The arrays of all blocks become one piece of memory: the first pass counts its bytes, the second one copies.
void Forests::pack(const std::vector<Trees>& blocks) {
    int64_t bytes = 0;
    const auto place = [&](const auto& array, auto*& to) {
        using T = typename std::remove_cvref_t<decltype(array)>::value_type;
        if (memory_.size() && !array.empty()) {
            T* const copy = reinterpret_cast<T*>(memory_.data() + bytes);
            std::copy(array.begin(), array.end(), copy);
            to = copy;
        }
        bytes += int64_t(array.size() * sizeof(T) + 7) / 8 * 8;
    };
    plans_.resize(blocks.size());
    for (int pass = 0; pass < 2; ++pass) {
        if (pass) memory_ = Block<>(bytes);
        bytes = 0;
        for (size_t k = 0; k < blocks.size(); ++k) {
            ForestState& plan = plans_[k];
            plan.size = int64_t(blocks[k].node.size());
            place(blocks[k].node, plan.node);
            place(blocks[k].parent, plan.parent);
            place(blocks[k].inverse, plan.inverse);
            place(blocks[k].ratio, plan.ratio);
            place(blocks[k].start, plan.start);
            place(blocks[k].column, plan.column);
            place(blocks[k].value, plan.value);
            if (plan.parent) work_ = std::max(work_, plan.size);
        }
    }
}

Forests::Forests(const Graph& graph, const int32_t* block, int32_t count) : g_(graph) {
    if (!block) return;
    std::vector<Trees> blocks(static_cast<size_t>(count));
    for (int32_t i = 0; i < int32_t(graph.n); ++i) blocks[size_t(block[i])].node.push_back(i);
    std::vector<int32_t> place(size_t(graph.n), -1);
    for (Trees& each : blocks) {
        if (!eliminate(each, place, true)) (each.start.empty() ? has_cycles_ : has_signs_) = true;
        if (std::all_of(each.parent.begin(), each.parent.end(), [](int32_t p) { return p < 0; })) each.parent.clear();
    }
    if (!has_cycles_ && !has_signs_) pack(blocks);
}

// Orders the nodes of a block from the leaves to the roots, and eliminates them; place (n) is -1 before and after.
bool Forests::eliminate(Trees& trees, std::vector<int32_t>& place, bool with_entries) const {
    const std::vector<int32_t> nodes = trees.node;
    for (size_t k = 0; k < nodes.size(); ++k) place[size_t(nodes[k])] = int32_t(k);
    const auto [order, up] = from_leaves(nodes.size(), [&](int32_t k, auto f) {
        const int32_t i = nodes[size_t(k)];
        for (int64_t e = g_.start[i]; e < g_.start[i + 1]; ++e) {
            const int32_t j = g_.column[e], other = place[size_t(j)];
            if (j != i && g_.value[e] != 0 && other >= 0) f(other);
        }
    });
    bool is_positive = false;
    if (order.size() == nodes.size()) { // else the remaining nodes contain a cycle
        std::vector<int32_t> position(nodes.size());
        for (size_t p = 0; p < order.size(); ++p) position[size_t(order[p])] = int32_t(p);
        trees.parent.resize(nodes.size());
        for (size_t p = 0; p < order.size(); ++p) {
            const int32_t parent = up[size_t(order[p])];
            trees.node[p] = nodes[size_t(order[p])];
            trees.parent[p] = parent < 0 ? -1 : position[size_t(parent)];
        }
        is_positive = factor(trees, place, with_entries);
    }
    for (int32_t i : nodes) place[size_t(i)] = -1;
    return is_positive;
}

// Computes the pivots of nodes in the order of elimination, and copies the entries outside the block, whose place is -1.
// Returns whether all pivots are positive.
bool Forests::factor(Trees& trees, const std::vector<int32_t>& place, bool with_entries) const {
    const size_t size = trees.node.size();
    trees.inverse.assign(size, 0);
    trees.ratio.assign(size, 0);
    trees.start.assign(1, 0);
    std::vector<double> pivot(size, 0);
    bool is_positive = true;
    for (size_t p = 0; p < size; ++p) {
        const int32_t i = trees.node[p], parent = trees.parent[p];
        double link = 0;
        for (int64_t e = g_.start[i]; e < g_.start[i + 1]; ++e) {
            const int32_t j = g_.column[e];
            if (j == i)
                pivot[p] += g_.value[e];
            else if (parent >= 0 && j == trees.node[size_t(parent)])
                link = g_.value[e];
            else if (with_entries && place[size_t(j)] < 0) {
                trees.column.push_back(j);
                trees.value.push_back(g_.value[e]);
            }
        }
        is_positive = is_positive && pivot[p] > 0;
        trees.inverse[p] = 1 / pivot[p];
        trees.ratio[p] = link / pivot[p];
        if (parent >= 0) pivot[size_t(parent)] -= link * trees.ratio[p];
        trees.start.push_back(int64_t(trees.column.size()));
    }
    return is_positive;
}

int64_t Forests::run(const double* b, double* x, int64_t first, int64_t count, const Team& team) const {
    const Block<double> work(work_);
    std::fill_n(work.data(), work_, 0.0);
    for (int64_t k = 0; k < count; ++k) {
        ForestState p = plans_[size_t((first + k) % int64_t(plans_.size()))];
        if (has_to_stop(team, p.size + (p.start ? p.start[p.size] : 0))) return k;
        p.b = b;
        p.x = x;
        p.work = work.data();
        kernels().forest(p);
    }
    return count;
}

int64_t Forests::run_greedy(double* x, double* gradient, int64_t count, int64_t* sizes, const Team& team) const {
    const size_t n = size_t(g_.n);
    std::vector<int32_t> place(n, -1), order(n);
    std::vector<uint8_t> in_block(n);
    std::vector<double> work;
    Joins joins(g_);
    for (int64_t step = 0; step < count; ++step) {
        if (has_to_stop(team, 20 * g_.n)) return step;
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
            const double a = std::abs(gradient[i]), c = std::abs(gradient[j]);
            return a > c || (a == c && i < j);
        });
        std::fill(in_block.begin(), in_block.end(), uint8_t(0));
        joins.reset();
        Trees block;
        for (int32_t i : order)
            if (joins.join(i, [&](int32_t j) { return in_block[size_t(j)] != 0; })) {
                in_block[size_t(i)] = 1;
                block.node.push_back(i);
            }
        if (!eliminate(block, place, false)) return -1 - step;
        const int64_t size = sizes[step] = int64_t(block.node.size());
        work.resize(size_t(size));
        for (int64_t p = 0; p < size; ++p) work[size_t(p)] = -gradient[block.node[size_t(p)]];
        for (size_t p = 0; p < size_t(size); ++p)
            if (block.parent[p] >= 0) work[size_t(block.parent[p])] -= block.ratio[p] * work[p];
        for (size_t p = size_t(size); p-- > 0;) {
            const double up = block.parent[p] >= 0 ? block.ratio[p] * work[size_t(block.parent[p])] : 0;
            const double d = work[p] = block.inverse[p] * work[p] - up;
            const int32_t i = block.node[p];
            x[i] += d;
            for (int64_t e = g_.start[i]; e < g_.start[i + 1]; ++e) gradient[g_.column[e]] += d * g_.value[e];
        }
    }
    return count;
}

} // namespace fastiter::bcd
