// Elimination without subtractions (Grassmann, Taksar, Heyman). The off-diagonal entries a_ij = discount P_ij are
// nonnegative, and the diagonal entry is not computed from 1 - discount P_ii, but is the sum of the row's other entries
// and of its leak 1 - sum over j of discount P_ij, which is eliminated like a column. So entries are sums of positive
// numbers, each with a small relative error, however close the discount is to 1. A state without successors has its
// reward as its value, and what goes to it counts as leaking.
//
// Row i of the reordered chain is reduced by the rows before it, and only its part behind the diagonal is kept, in
// blocks of eight columns: the rewards are eliminated at the same time.
#include "mdp/elimination.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

namespace fastiter::mdp {
namespace {

constexpr int64_t kWidth = 8, kWord = 64; // columns in a block, and blocks in a word of the mask
// Operations of visiting a row, and of visiting an entry to make the graph
constexpr int64_t kPerRow = 20, kPerEntry = 30;
// The kept order is used as long as elimination takes at most this multiple of the operations that it took at first.
constexpr int64_t kLoss = 2;
constexpr int64_t kMaxBlocks = 1 << 23; // half a gigabyte

struct alignas(64) Block8 {
    double x[kWidth];
};

inline void add(Block8& to, double factor, const Block8& from) {
    for (int64_t k = 0; k < kWidth; ++k) to.x[k] += factor * from.x[k];
}

// 1 - sum of discount w over the entries, exact up to about the square of rounding, as a difference of numbers near 1.
class Leak {
public:
    void take(double weight, double discount) {
        const double product = weight * discount, error = std::fma(weight, discount, -product);
        const double sum = high_ - product, part = sum - high_;
        low_ += (high_ - (sum - part)) - (product + part) - error;
        high_ = sum;
    }
    double value() const { return high_ + low_; }

private:
    double high_ = 1, low_ = 0;
};

// A row behind the diagonal
struct Row {
    size_t begin = 0, end = 0; // its blocks
    double leak = 0, reward = 0, diagonal = 0;
};

template <class T> class Reduction {
public:
    Reduction(const Links<T>& chain, double discount, const T* reward, const std::vector<int32_t>& order)
        : chain_(chain), weight_(chain.weight), reward_(reward), discount_(discount), order_(order),
          place_(size_t(chain.states), -1), rows_(order.size()), work_(order.size() / kWidth + 1, Block8{}),
          mask_(work_.size() / kWord + 1) {
        for (size_t i = 0; i < order.size(); ++i) place_[size_t(order[i])] = int32_t(i);
    }

    // Returns whether all rows have been reduced within the budget.
    bool run(Budget& budget, const Team& team) {
        for (int64_t i = 0; i < int64_t(order_.size()); ++i) {
            const int64_t before = budget.used;
            scatter(i);
            reduce(i, budget);
            const bool is_left = keep(i);
            budget.used += kPerBlock * int64_t(rows_[size_t(i)].end - rows_[size_t(i)].begin);
            if (!is_left || int64_t(columns_.size()) > kMaxBlocks || budget.is_spent() ||
                has_to_stop(team, budget.used - before))
                return false;
        }
        return true;
    }

    void substitute(T* v) {
        std::copy_n(reward_, chain_.states, v); // the values of states without successors
        double* x = &work_[0].x[0];
        for (size_t i = rows_.size(); i-- > 0;) {
            const Row& row = rows_[i];
            double sum = row.reward;
            for (size_t b = row.begin; b < row.end; ++b)
                for (int64_t k = 0; k < kWidth; ++k) sum += values_[b].x[k] * x[kWidth * columns_[b] + k];
            x[i] = sum / row.diagonal;
            v[order_[i]] = T(x[i]);
        }
    }

private:
    void mark(int64_t block) { mask_[size_t(block / kWord)] |= uint64_t(1) << (block % kWord); }

    void scatter(int64_t i) {
        const int32_t s = order_[size_t(i)];
        Leak leak;
        double ended = 0, reward = double(reward_[s]);
        low_ = int64_t(work_.size());
        for (int64_t e = chain_.begin(s); e < chain_.end(s); ++e) {
            const double weight = double(weight_[e]);
            leak.take(weight, discount_);
            const int32_t j = place_[size_t(chain_.next[e])];
            if (j < 0) {
                ended += discount_ * weight;
                reward += discount_ * weight * double(reward_[chain_.next[e]]);
            }
            if (j < 0 || j == i || weight == 0) continue;
            const int64_t block = j / kWidth;
            work_[size_t(block)].x[j % kWidth] += discount_ * weight;
            mark(block);
            low_ = std::min(low_, block);
            high_ = std::max(high_, block);
        }
        rows_[size_t(i)].leak = leak.value() + ended;
        rows_[size_t(i)].reward = reward;
    }

    // Calls f(block) for each marked block in ascending order, from `first` on, as long as f does not return false;
    // f may mark later ones.
    template <class F> void for_marked(int64_t first, F f) {
        for (int64_t word = first / kWord; word <= high_ / kWord; ++word) {
            uint64_t from = word == first / kWord ? ~uint64_t(0) << (first % kWord) : ~uint64_t(0);
            while (const uint64_t left = mask_[size_t(word)] & from) {
                const int bit = __builtin_ctzll(left);
                if (!f(kWord * word + bit)) return;
                from = bit == kWord - 1 ? 0 : ~uint64_t(0) << (bit + 1);
            }
        }
    }

    void reduce(int64_t i, Budget& budget) {
        Row& row = rows_[size_t(i)];
        budget.used += kPerRow;
        if (low_ > i / kWidth) return;
        for_marked(low_, [&](int64_t block) {
            if (block > i / kWidth) return false;
            Block8& own = work_[size_t(block)];
            for (int64_t k = 0; k < kWidth && kWidth * block + k < i; ++k) {
                if (own.x[k] == 0) continue;
                const Row& from = rows_[size_t(kWidth * block + k)];
                const double factor = own.x[k] / from.diagonal;
                own.x[k] = 0;
                row.leak += factor * from.leak;
                row.reward += factor * from.reward;
                for (size_t b = from.begin; b < from.end; ++b) {
                    const int64_t column = columns_[b];
                    add(work_[size_t(column)], factor, values_[b]);
                    mark(column);
                }
                if (from.end > from.begin) high_ = std::max<int64_t>(high_, columns_[from.end - 1]);
                budget.used += kPerBlock * (2 + int64_t(from.end - from.begin));
            }
            return true;
        });
    }

    // Moves the part behind the diagonal to the kept rows; returns whether a state can be left.
    bool keep(int64_t i) {
        Row& row = rows_[size_t(i)];
        row.begin = columns_.size();
        work_[size_t(i / kWidth)].x[i % kWidth] = 0;
        double sum = row.leak;
        for_marked(i / kWidth, [&](int64_t block) {
            Block8& own = work_[size_t(block)];
            double part = 0;
            for (int64_t k = 0; k < kWidth; ++k) part += own.x[k];
            if (part == 0) return true;
            sum += part;
            columns_.push_back(int32_t(block));
            values_.push_back(own);
            own = Block8{};
            return true;
        });
        row.end = columns_.size();
        row.diagonal = sum;
        if (low_ <= high_)
            std::memset(&mask_[size_t(low_ / kWord)], 0, size_t(high_ / kWord - low_ / kWord + 1) * sizeof(uint64_t));
        high_ = -1;
        return row.leak >= 0 && sum > 0;
    }

    const Links<T>& chain_;
    const T *weight_, *reward_;
    double discount_;
    const std::vector<int32_t>& order_;
    std::vector<int32_t> place_;
    std::vector<Row> rows_;
    std::vector<int32_t> columns_;
    std::vector<Block8> values_;
    std::vector<Block8> work_;   // the row that is reduced
    std::vector<uint64_t> mask_; // its blocks
    int64_t low_ = 0, high_ = -1;
};

// Nothing after a request to stop
template <class T> std::optional<Graph> graph_of(const Links<T>& chain, const Team& team) {
    const int64_t n = chain.states;
    const T* weight = chain.weight;
    std::vector<int64_t> start(size_t(n + 1), 0);
    auto for_pairs = [&](auto f) {
        for (int64_t s = 0; s < n; ++s) {
            for (int64_t e = chain.begin(s); e < chain.end(s); ++e)
                if (const int64_t to = chain.next[e]; to != s && weight[e] > 0) f(s, to);
            if (has_to_stop(team, kPerEntry / 2 * (chain.end(s) - chain.begin(s)))) return false;
        }
        return true;
    };
    bool is_done = for_pairs([&](int64_t s, int64_t to) {
        ++start[size_t(s + 1)];
        ++start[size_t(to + 1)];
    });
    for (int64_t s = 0; s < n; ++s) start[size_t(s + 1)] += start[size_t(s)];
    std::vector<int32_t> all(static_cast<size_t>(start.back())), last(static_cast<size_t>(n), -1);
    std::vector<int64_t> at(start.begin(), start.end() - 1);
    is_done = is_done && for_pairs([&](int64_t s, int64_t to) {
                  all[size_t(at[size_t(s)]++)] = int32_t(to);
                  all[size_t(at[size_t(to)]++)] = int32_t(s);
              });
    if (!is_done) return std::nullopt;
    Graph graph{std::vector<int64_t>(size_t(n + 1), 0), std::move(all)};
    int64_t to = 0;
    for (int64_t s = 0; s < n; ++s) {
        for (int64_t k = start[size_t(s)]; k < start[size_t(s + 1)]; ++k) {
            const int32_t j = graph.adjacent[size_t(k)];
            if (last[size_t(j)] == s) continue;
            last[size_t(j)] = int32_t(s);
            graph.adjacent[size_t(to++)] = j;
        }
        graph.start[size_t(s + 1)] = to;
    }
    return graph;
}

} // namespace

template <class T>
bool Elimination::solve(const Links<T>& chain, double discount, const T* reward, T* v, int64_t allowed) {
    bool is_solved = false;
    launch([&](Team team) { is_solved = solve(chain, discount, reward, v, allowed, team); }, [](int) { return 1; },
           Stops::on_request);
    return is_solved;
}

template <class T>
bool Elimination::solve(const Links<T>& chain, double discount, const T* reward, T* v, int64_t allowed,
                        const Team& team) {
    if (allowed <= hopeless_) return false;
    auto is_solved_within = [&](int64_t limit) {
        Budget budget{limit, 0};
        Reduction<T> reduction(chain, discount, reward, order_);
        const bool is_reduced = reduction.run(budget, team);
        operations_ += budget.used;
        if (is_reduced) reduction.substitute(v);
        return is_reduced;
    };
    if (fits(chain) && is_solved_within(std::min(allowed, kLoss * first_))) return true;
    const int64_t before = operations_;
    int64_t entries = 0;
    for (int64_t s = 0; s < chain.states; ++s) entries += chain.end(s) - chain.begin(s);
    Budget budget{allowed, kPerEntry * entries};
    first_ = 0;
    auto has_failed = [&] {
        hopeless_ = has_to_stop(team, 0) ? 0 : allowed;
        return false;
    };
    if (budget.is_spent()) return has_failed();
    std::optional<Graph> graph = graph_of(chain, team);
    if (!graph) return has_failed();
    is_included_.resize(size_t(chain.states));
    for (int64_t s = 0; s < chain.states; ++s) is_included_[size_t(s)] = chain.end(s) > chain.begin(s);
    order_ = elimination_order(std::move(*graph), is_included_, budget, team);
    operations_ += budget.used;
    if (has_to_stop(team, 0) || budget.is_spent() || !is_solved_within(allowed)) return has_failed();
    first_ = operations_ - before - budget.used;
    hopeless_ = 0;
    return true;
}

// Whether the kept order has the states of the chain that have successors.
template <class T> bool Elimination::fits(const Links<T>& chain) const {
    if (first_ == 0 || int64_t(is_included_.size()) != chain.states) return false;
    for (int64_t s = 0; s < chain.states; ++s)
        if (is_included_[size_t(s)] != (chain.end(s) > chain.begin(s))) return false;
    return true;
}

template bool Elimination::solve(const Links<float>&, double, const float*, float*, int64_t);
template bool Elimination::solve(const Links<double>&, double, const double*, double*, int64_t);

} // namespace fastiter::mdp
