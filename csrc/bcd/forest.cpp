#include "bcd/forest.hpp"
#include "bcd/cpu/kernels.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastiter::bcd {
namespace {

class Trees { // union-find with path halving
public:
    explicit Trees(int64_t n) : parent_(size_t(n)) { std::iota(parent_.begin(), parent_.end(), 0); }
    int32_t root(int32_t i) {
        while (parent_[size_t(i)] != i) i = parent_[size_t(i)] = parent_[size_t(parent_[size_t(i)])];
        return i;
    }
    void join(int32_t i, int32_t j) { parent_[size_t(root(i))] = root(j); }
    void reset(int32_t i) { parent_[size_t(i)] = i; }

private:
    std::vector<int32_t> parent_;
};

// Whether node i can join the trees of its neighbours in the block: no two neighbours may be in the same tree.
template <class InBlock> bool joins(const Graph& g, Trees& trees, int32_t i, std::vector<int32_t>& roots, InBlock in) {
    roots.clear();
    for (int64_t e = g.start[i]; e < g.start[i + 1]; ++e) {
        const int32_t j = g.column[e];
        if (j == i || g.value[e] == 0 || !in(j)) continue;
        const int32_t root = trees.root(j);
        if (std::find(roots.begin(), roots.end(), root) != roots.end()) return false;
        roots.push_back(root);
    }
    for (int32_t root : roots) trees.join(root, i);
    return true;
}

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

} // namespace

std::vector<int32_t> forest_partition(const Graph& g, const int32_t* order, bool edges) {
    std::vector<int32_t> block(size_t(g.n), -1), left, later, roots;
    if (order)
        left.assign(order, order + g.n);
    else
        left = breadth_first(g);
    for (int32_t id = 0; !left.empty(); ++id) {
        Trees trees(g.n);
        later.clear();
        const auto in = [&](int32_t j) { return block[size_t(j)] == id; };
        for (int32_t i : left) {
            bool fits = true;
            if (edges)
                fits = joins(g, trees, i, roots, in);
            else
                for (int64_t e = g.start[i]; e < g.start[i + 1] && fits; ++e)
                    fits = g.column[e] == i || g.value[e] == 0 || !in(g.column[e]);
            if (fits)
                block[size_t(i)] = id;
            else
                later.push_back(i);
        }
        left.swap(later);
    }
    return block;
}

Forests::Forests(const Graph& graph, const int32_t* block, int32_t count) : g_(graph), blocks_(size_t(count)) {
    if (!block) return;
    for (int32_t i = 0; i < int32_t(graph.n); ++i) blocks_[size_t(block[i])].node.push_back(i);
    std::vector<int32_t> place(size_t(graph.n), -1);
    for (Block& each : blocks_) {
        if (eliminate(each, place, true)) {
            if (std::all_of(each.parent.begin(), each.parent.end(), [](int32_t p) { return p < 0; }))
                each.parent.clear();
            continue;
        }
        (each.start.empty() ? has_cycles_ : has_signs_) = true;
    }
}

// Orders the nodes of a block from the leaves to the roots, and eliminates them; place (n) is -1 before and after.
bool Forests::eliminate(Block& block, std::vector<int32_t>& place, bool with_entries) const {
    const std::vector<int32_t> nodes = block.node;
    const auto links = [&](int32_t i, auto f) {
        for (int64_t e = g_.start[i]; e < g_.start[i + 1]; ++e)
            if (g_.column[e] != i && g_.value[e] != 0 && place[size_t(g_.column[e])] >= 0) f(e);
    };
    std::vector<int32_t> degree(nodes.size()), order, waiting;
    for (size_t k = 0; k < nodes.size(); ++k) place[size_t(nodes[k])] = int32_t(k);
    for (size_t k = 0; k < nodes.size(); ++k) links(nodes[k], [&](int64_t) { ++degree[k]; });
    std::vector<int32_t> up(nodes.size(), -1);
    for (size_t k = 0; k < nodes.size(); ++k) {
        int32_t at = int32_t(k); // follow the path from a leaf while each removal makes the next node a leaf
        while (at >= 0 && degree[size_t(at)] >= 0 && degree[size_t(at)] <= 1) {
            degree[size_t(at)] = -1;
            order.push_back(at);
            int32_t next = -1;
            links(nodes[size_t(at)], [&](int64_t e) {
                const int32_t other = place[size_t(g_.column[e])];
                if (degree[size_t(other)] >= 0) next = other;
            });
            up[size_t(at)] = next;
            if (next >= 0) --degree[size_t(next)];
            at = next >= 0 && next < int32_t(k) ? next : -1; // the outer loop reaches a later one by itself
        }
    }
    if (order.size() < nodes.size()) { // the remaining nodes contain a cycle
        for (int32_t i : nodes) place[size_t(i)] = -1;
        return false;
    }
    std::vector<int32_t> position(nodes.size());
    for (size_t p = 0; p < order.size(); ++p) position[size_t(order[p])] = int32_t(p);
    const size_t size = nodes.size();
    block.parent.resize(size);
    block.inverse.assign(size, 0);
    block.ratio.assign(size, 0);
    block.start.assign(1, 0);
    std::vector<double> pivot(size, 0);
    bool is_positive = true;
    for (size_t p = 0; p < size; ++p) {
        const int32_t i = nodes[size_t(order[p])], parent = up[size_t(order[p])];
        block.node[p] = i;
        block.parent[p] = parent < 0 ? -1 : position[size_t(parent)];
        double link = 0;
        for (int64_t e = g_.start[i]; e < g_.start[i + 1]; ++e) {
            const int32_t j = g_.column[e];
            if (j == i)
                pivot[p] += g_.value[e];
            else if (parent >= 0 && j == nodes[size_t(parent)])
                link = g_.value[e];
            else if (with_entries && place[size_t(j)] < 0) {
                block.column.push_back(j);
                block.value.push_back(g_.value[e]);
            }
        }
        is_positive = is_positive && pivot[p] > 0;
        block.inverse[p] = 1 / pivot[p];
        block.ratio[p] = link / pivot[p];
        if (parent >= 0) pivot[size_t(block.parent[p])] -= link * block.ratio[p];
        block.start.push_back(int64_t(block.column.size()));
    }
    for (int32_t i : nodes) place[size_t(i)] = -1;
    return is_positive;
}

int64_t Forests::run(const double* b, double* x, int64_t first, int64_t count, const Team& team) const {
    std::vector<double> work(static_cast<size_t>(g_.n));
    for (int64_t k = 0; k < count; ++k) {
        const Block& block = blocks_[size_t((first + k) % int64_t(blocks_.size()))];
        if (has_to_stop(team, int64_t(block.node.size() + block.column.size()))) return k;
        const int32_t* parents = block.parent.empty() ? nullptr : block.parent.data();
        kernels().forest({int64_t(block.node.size()), block.node.data(), parents, block.inverse.data(),
                          block.ratio.data(), block.start.data(), block.column.data(), block.value.data(), b, x,
                          work.data()});
    }
    return count;
}

int64_t Forests::run_greedy(double* x, double* gradient, int64_t count, int64_t* sizes, const Team& team) const {
    const size_t n = size_t(g_.n);
    std::vector<int32_t> place(n, -1), order(n), roots;
    std::vector<uint8_t> in_block(n);
    std::vector<double> work;
    Trees trees(g_.n);
    for (int64_t step = 0; step < count; ++step) {
        if (has_to_stop(team, 20 * g_.n)) return step;
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
            const double a = std::abs(gradient[i]), c = std::abs(gradient[j]);
            return a > c || (a == c && i < j);
        });
        std::fill(in_block.begin(), in_block.end(), uint8_t(0));
        for (size_t i = 0; i < n; ++i) trees.reset(int32_t(i));
        Block block;
        for (int32_t i : order)
            if (joins(g_, trees, i, roots, [&](int32_t j) { return in_block[size_t(j)] != 0; })) {
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
