// Minimum degree on a quotient graph (Amestoy, Davis, Duff): an eliminated state is an element, the clique of its
// remaining neighbours, so that the graph never takes more memory than the chain and the cliques.
#include "mdp/elimination.hpp"
#include <algorithm>
#include <cmath>

namespace fastiter::mdp {
namespace {

// States with more neighbours than this multiple of the square root of the number of states, as the state in which all
// others restart, come last: each would otherwise be visited whenever one of its neighbours is eliminated.
constexpr double kHub = 10;
constexpr int64_t kMinHub = 16;
// Operations of eliminating a state, and of visiting an item of a list
constexpr int64_t kPerState = 100, kPerItem = 2;

class Quotient {
public:
    Quotient(Graph graph, const std::vector<uint8_t>& is_included, Budget& budget)
        : n_(int64_t(is_included.size())), start_(std::move(graph.start)), list_(std::move(graph.adjacent)),
          budget_(budget), elements_(size_t(n_)), variables_(size_t(n_)), first_(size_t(n_)), size_(size_t(n_)),
          degree_(size_t(n_)), before_(size_t(n_), -1), after_(size_t(n_), -1), head_(size_t(n_ + 1), -1),
          parent_(size_t(n_), -1), joined_(size_t(n_), -1), outside_(size_t(n_)), visited_(size_t(n_), -1),
          mark_(size_t(n_), -1), is_in_(is_included) {
        find_hubs();
        for (int64_t i = 0; i < n_; ++i)
            if (is_in_[size_t(i)]) {
                ++remaining_;
                keep_included(int32_t(i));
                degree_[size_t(i)] = variables_[size_t(i)];
                insert(int32_t(i));
            }
    }

    // Returns whether all states have been eliminated within the budget.
    bool run(const Team& team) {
        while (remaining_ > 0) {
            const int64_t before = budget_.used;
            const int32_t p = pop();
            // Later states seldom have lower degrees, until few are left.
            const int64_t degree = degree_[size_t(p)];
            if (budget_.used + budget_.ahead + std::max<int64_t>(remaining_ - degree, 0) * cost(degree) >
                budget_.limit) {
                budget_.ahead = budget_.limit + 1;
                return false;
            }
            eliminate(p);
            if (budget_.is_spent() || has_to_stop(team, budget_.used - before)) return false;
        }
        return true;
    }

    // All states, each after the elements that it has absorbed, so that cliques are contiguous
    std::vector<int32_t> postorder() const {
        std::vector<int32_t> child(size_t(n_), -1), sibling(size_t(n_), -1), order, stack;
        std::vector<int32_t> roots;
        for (size_t k = pivots_.size(); k-- > 0;) {
            const int32_t p = pivots_[k], to = parent_[size_t(p)];
            if (to < 0)
                roots.push_back(p);
            else {
                sibling[size_t(p)] = child[size_t(to)];
                child[size_t(to)] = p;
            }
        }
        for (size_t k = roots.size(); k-- > 0;) {
            stack.push_back(roots[k]);
            while (!stack.empty()) {
                const int32_t p = stack.back(), next = child[size_t(p)];
                if (next >= 0) {
                    child[size_t(p)] = sibling[size_t(next)];
                    stack.push_back(next);
                    continue;
                }
                stack.pop_back();
                for (int32_t i = p; i >= 0; i = joined_[size_t(i)]) order.push_back(i);
            }
        }
        order.insert(order.end(), hubs_.begin(), hubs_.end());
        return order;
    }

private:
    void find_hubs() {
        const int64_t minimum = std::max(kMinHub, int64_t(kHub * std::sqrt(double(n_))));
        for (int64_t i = 0; i < n_; ++i)
            if (is_in_[size_t(i)] && start_[size_t(i + 1)] - start_[size_t(i)] > minimum) hubs_.push_back(int32_t(i));
        for (int32_t i : hubs_) is_in_[size_t(i)] = 0;
    }

    void keep_included(int32_t i) {
        int64_t to = start_[size_t(i)];
        for (int64_t k = to; k < start_[size_t(i) + 1]; ++k)
            if (is_in_[size_t(list_[size_t(k)])]) list_[size_t(to++)] = list_[size_t(k)];
        variables_[size_t(i)] = int32_t(to - start_[size_t(i)]);
    }

    // Lists of states by degree
    void insert(int32_t i) {
        const int32_t d = degree_[size_t(i)], next = head_[size_t(d)];
        before_[size_t(i)] = -1;
        after_[size_t(i)] = next;
        if (next >= 0) before_[size_t(next)] = i;
        head_[size_t(d)] = i;
        lowest_ = std::min(lowest_, d);
    }

    void remove(int32_t i) {
        const int32_t last = before_[size_t(i)], next = after_[size_t(i)];
        if (next >= 0) before_[size_t(next)] = last;
        if (last >= 0)
            after_[size_t(last)] = next;
        else
            head_[size_t(degree_[size_t(i)])] = next;
    }

    int32_t pop() {
        while (head_[size_t(lowest_)] < 0) ++lowest_;
        const int32_t p = head_[size_t(lowest_)];
        remove(p);
        return p;
    }

    int64_t cost(int64_t size) const {
        const int64_t all = size + int64_t(hubs_.size());
        return kPerBlock * all * (all / 8 + 2);
    }

    void eliminate(int32_t p) {
        --remaining_;
        budget_.used += kPerState;
        pivots_.push_back(p);
        is_in_[size_t(p)] = 0;
        join(p);
        const int64_t begin = first_[size_t(p)];
        for (int64_t k = begin; k < begin + size_[size_t(p)]; ++k) measure(p, pool_[size_t(k)]);
        int64_t to = begin;
        int32_t tail = p;
        const int32_t size = size_[size_t(p)];
        budget_.ahead += cost(size);
        for (int64_t k = begin; k < begin + size; ++k) {
            const int32_t i = pool_[size_t(k)];
            remove(i);
            if (update(p, i, size)) {
                pool_[size_t(to++)] = i;
                continue;
            }
            // Its neighbours are those of p: it is eliminated with p.
            joined_[size_t(tail)] = i;
            tail = i;
            is_in_[size_t(i)] = 0;
            --remaining_;
            budget_.ahead += cost(size);
        }
        size_[size_t(p)] = int32_t(to - begin);
        pool_.resize(size_t(to));
        for (int64_t k = begin; k < to; ++k) {
            const int32_t i = pool_[size_t(k)];
            degree_[size_t(i)] = int32_t(std::min<int64_t>(degree_[size_t(i)], remaining_ - 1));
            insert(i);
        }
    }

    // The clique of p: its own neighbours, and those of its elements, which it absorbs
    void join(int32_t p) {
        const int64_t begin = start_[size_t(p)], middle = begin + elements_[size_t(p)];
        first_[size_t(p)] = int64_t(pool_.size());
        auto add = [&](int32_t i) {
            if (!is_in_[size_t(i)] || mark_[size_t(i)] == p) return;
            mark_[size_t(i)] = p;
            pool_.push_back(i);
        };
        for (int64_t k = begin; k < middle; ++k) {
            const int32_t e = list_[size_t(k)];
            if (size_[size_t(e)] < 0) continue;
            const int64_t from = first_[size_t(e)];
            for (int64_t m = from; m < from + size_[size_t(e)]; ++m) add(pool_[size_t(m)]);
            budget_.used += kPerItem * size_[size_t(e)];
            absorb(e, p);
        }
        for (int64_t k = middle; k < middle + variables_[size_t(p)]; ++k) add(list_[size_t(k)]);
        budget_.used += kPerItem * variables_[size_t(p)];
        size_[size_t(p)] = int32_t(int64_t(pool_.size()) - first_[size_t(p)]);
    }

    void absorb(int32_t e, int32_t p) {
        parent_[size_t(e)] = p;
        size_[size_t(e)] = -1;
    }

    // Subtracts i from the number of states that the other elements of i have outside the clique of p.
    void measure(int32_t p, int32_t i) {
        const int64_t begin = start_[size_t(i)];
        for (int64_t k = begin; k < begin + elements_[size_t(i)]; ++k) {
            const int32_t e = list_[size_t(k)];
            if (size_[size_t(e)] < 0) continue;
            if (visited_[size_t(e)] != p) {
                visited_[size_t(e)] = p;
                outside_[size_t(e)] = size_[size_t(e)];
            }
            --outside_[size_t(e)];
        }
        budget_.used += kPerItem * elements_[size_t(i)];
    }

    // Replaces what the clique of p covers in the lists of i by p; returns whether anything else is left.
    bool update(int32_t p, int32_t i, int32_t size) {
        const int64_t begin = start_[size_t(i)], middle = begin + elements_[size_t(i)];
        const int64_t end = middle + variables_[size_t(i)];
        int64_t beyond = 0;
        rest_.clear();
        for (int64_t k = begin; k < middle; ++k) {
            const int32_t e = list_[size_t(k)];
            if (size_[size_t(e)] < 0) continue;
            if (outside_[size_t(e)] == 0) {
                absorb(e, p);
                continue;
            }
            beyond += outside_[size_t(e)];
            rest_.push_back(e);
        }
        rest_.push_back(p);
        const size_t elements = rest_.size();
        for (int64_t k = middle; k < end; ++k) {
            const int32_t j = list_[size_t(k)];
            if (is_in_[size_t(j)] && mark_[size_t(j)] != p) rest_.push_back(j);
        }
        budget_.used += kPerItem * (end - begin);
        const size_t variables = rest_.size() - elements;
        if (elements == 1 && variables == 0) return false;
        std::copy(rest_.begin(), rest_.end(), list_.begin() + begin);
        elements_[size_t(i)] = int32_t(elements);
        variables_[size_t(i)] = int32_t(variables);
        const int64_t sum = int64_t(variables) + size - 1 + beyond;
        degree_[size_t(i)] = int32_t(std::min(sum, int64_t(degree_[size_t(i)]) + size - 1));
        return true;
    }

    int64_t n_, remaining_ = 0;
    std::vector<int64_t> start_;
    std::vector<int32_t> list_; // a state's elements, then its neighbours that no element covers
    Budget& budget_;
    std::vector<int32_t> elements_, variables_; // their numbers
    std::vector<int64_t> first_;                // the clique of an element in pool_
    std::vector<int32_t> size_;                 // the size of the clique, -1 if it is absorbed
    std::vector<int32_t> degree_, before_, after_, head_, parent_, joined_, outside_, visited_, mark_;
    std::vector<uint8_t> is_in_;
    std::vector<int32_t> pool_, pivots_, hubs_, rest_;
    int32_t lowest_ = 0;
};

} // namespace

std::vector<int32_t> elimination_order(Graph graph, const std::vector<uint8_t>& is_included, Budget& budget,
                                       const Team& team) {
    Quotient quotient(std::move(graph), is_included, budget);
    return quotient.run(team) ? quotient.postorder() : std::vector<int32_t>();
}

} // namespace fastiter::mdp
