// Routing to experts, and their products.
#include "decode/cpu/products.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

// The index of the largest number that is not excluded, the first of equal ones; -1 if all are. NaN is the largest, so
// that it is chosen and shows in the result.
template <class T, class Skip> int64_t largest(const T* x, int64_t count, Skip skip) {
    int64_t best = -1;
    for (int64_t i = 0; i < count; ++i)
        if (!skip(i) && (best < 0 || x[i] > x[best] || (x[i] != x[i] && x[best] == x[best]))) best = i;
    return best;
}

template <class T> void softmax(T* x, int64_t count) {
    T top = x[0];
    for (int64_t i = 1; i < count; ++i) top = x[i] > top ? x[i] : top;
    T sum = 0;
    for_vectors<T>({0, count},
                   [&](int64_t i, int64_t n) { store_up_to(x + i, exp<T>(load_up_to(x + i, n) - top), n); });
    for (int64_t i = 0; i < count; ++i) sum += x[i];
    for (int64_t i = 0; i < count; ++i) x[i] /= sum;
}

template <class T> class Router {
public:
    Router(const Route<T>& o, T* memory) : o_(o), E_(o.out.size) {
        p_ = memory;
        order_ = p_ + round_up(E_, kLine);
        open_ = order_ + round_up(E_, kLine);
        sums_ = open_ + round_up(E_, kLine);
        chosen_ = sums_ + round_up(o.groups, kLine);
        picks_ = reinterpret_cast<int64_t*>(chosen_ + round_up(E_, kLine));
    }
    static int64_t size(const Route<T>& o) {
        constexpr int64_t kNumbers = sizeof(int64_t) / sizeof(T); // that an index takes
        return (4 + kNumbers) * round_up(o.out.size, kLine) + round_up(o.groups, kLine);
    }

    void run(const T* logits, T* out) const {
        for (int64_t e = 0; e < E_; ++e) p_[e] = logits[e];
        if (o_.routing == Routing::softmax) softmax(p_, E_);
        if (o_.routing == Routing::sigmoid) activate(Activation::sigmoid, T(1), p_, p_, E_);
        for (int64_t e = 0; e < E_; ++e) {
            order_[e] = o_.bias ? p_[e] + o_.bias[e] : p_[e];
            open_[e] = o_.groups == 1;
        }
        if (o_.groups > 1) open_groups();
        for (int64_t i = 0; i < o_.top_k; ++i) {
            picks_[i] = largest(order_, E_, [&](int64_t e) { return open_[e] == 0; });
            open_[picks_[i]] = 0;
            chosen_[i] = p_[picks_[i]];
        }
        weigh();
        for (int64_t e = 0; e < E_; ++e) out[e] = 0;
        for (int64_t i = 0; i < o_.top_k; ++i) out[picks_[i]] = chosen_[i];
    }

private:
    void open_groups() const {
        const int64_t size = E_ / o_.groups;
        for (int64_t g = 0; g < o_.groups; ++g) {
            const T* const x = order_ + g * size;
            const int64_t best = largest(x, size, [](int64_t) { return false; });
            const int64_t next = largest(x, size, [&](int64_t i) { return i == best; });
            sums_[g] = next < 0 ? x[best] : x[best] + x[next];
        }
        for (int64_t i = 0; i < o_.top_groups; ++i) {
            const int64_t g = largest(sums_, o_.groups, [&](int64_t j) { return open_[j * size] != 0; });
            for (int64_t e = 0; e < size; ++e) open_[g * size + e] = 1;
        }
    }
    void weigh() const {
        if (o_.routing == Routing::topk_softmax) softmax(chosen_, o_.top_k);
        T factor = o_.scale;
        if (o_.normalizes) {
            T sum = o_.eps;
            for (int64_t i = 0; i < o_.top_k; ++i) sum += chosen_[i];
            factor = o_.scale / sum;
        }
        for (int64_t i = 0; i < o_.top_k; ++i) chosen_[i] *= factor;
    }

    const Route<T>& o_;
    int64_t E_;
    T *p_, *order_, *open_, *sums_, *chosen_;
    int64_t* picks_;
};

// The rows of expert `e` that have a weight other than 0, and their inner numbers
template <class T> class Mixture {
public:
    Mixture(const Experts<T>& o, const Context<T>& c)
        : o_(o), c_(c), products_(c.scratch()), sums_(products_ + kSums), E_(o.routes.size),
          row_(round_up(o.up[0].N, kLine)) {}
    static constexpr int64_t kSums = kTilesTogether * kTile;

    // hidden = activation(gate x) (up x) for this thread's share of the tiles of all chosen experts
    void expand() const {
        const int64_t tiles = ceil_div(o_.up[0].N, kTile);
        const Range all = c_.part(count_chosen() * tiles);
        for (int64_t e = 0, at = 0; e < E_; ++e) {
            if (!is_chosen(e)) continue;
            const Range mine{max_of(all.begin - at, 0), min_of(all.end - at, tiles)};
            for (int64_t t = mine.begin; t < mine.end; t += kTilesTogether)
                expand(e, {t, min_of(t + kTilesTogether, mine.end)});
            at += tiles;
        }
    }
    // The sum of the chosen experts, in increasing order, for a share of the outputs
    void reduce() const {
        const Range tiles = c_.part(ceil_div(o_.out.size, kTile));
        for (int64_t t = tiles.begin; t < tiles.end; t += kTilesTogether)
            reduce({t, min_of(t + kTilesTogether, tiles.end)});
    }

private:
    T weight(int64_t b, int64_t e) const { return c_.of(o_.routes, b)[e]; }
    bool is_chosen(int64_t e) const {
        for (int64_t b = 0; b < c_.rows(); ++b)
            if (weight(b, e) != 0) return true;
        return false;
    }
    int64_t count_chosen() const {
        int64_t count = 0;
        for (int64_t e = 0; e < E_; ++e) count += is_chosen(e);
        return count;
    }
    T* hidden(int64_t b, int64_t e) const { return c_.step.hidden + (b * E_ + e) * row_; }

    void expand(int64_t e, Range tiles) const {
        const int64_t from = tiles.begin * kTile, count = min_of(tiles.end * kTile, o_.up[e].N) - from;
        for (int64_t b = 0; b < c_.rows(); ++b) {
            if (weight(b, e) == 0) continue;
            const T* const x = c_.of(o_.x, b);
            T* const y = hidden(b, e) + from;
            product(o_.up[e], tiles, 1, x, 0, y, 0);
            if (o_.gate) {
                product(o_.gate[e], tiles, 1, x, 0, products_, 0);
                gate(o_.activation, products_, y, y, count);
            } else {
                activate(o_.activation, T(1), y, y, count);
            }
        }
    }
    void reduce(Range tiles) const {
        const int64_t from = tiles.begin * kTile, count = min_of(tiles.end * kTile, o_.out.size) - from;
        for (int64_t b = 0; b < c_.rows(); ++b)
            for (int64_t i = 0; i < count; ++i) sums_[b * kSums + i] = o_.adds ? c_.of(o_.out, b)[from + i] : T(0);
        for (int64_t e = 0; e < E_; ++e)
            for (int64_t b = 0; b < c_.rows(); ++b) {
                const T factor = weight(b, e);
                if (factor == 0) continue;
                product(o_.down[e], tiles, 1, static_cast<const T*>(hidden(b, e)), 0, products_, 0);
                T* const sums = sums_ + b * kSums;
                for_vectors<T>({0, count}, [&](int64_t i, int64_t n) {
                    store_up_to(sums + i, fma(load_up_to(products_ + i, n), factor, load_up_to(sums + i, n)), n);
                });
            }
        for (int64_t b = 0; b < c_.rows(); ++b)
            for (int64_t i = 0; i < count; ++i) c_.of(o_.out, b)[from + i] = sums_[b * kSums + i];
    }

    const Experts<T>& o_;
    const Context<T>& c_;
    T *products_, *sums_;
    int64_t E_, row_;
};

} // namespace

template <class T> int64_t route_scratch(const Route<T>& o) { return Router<T>::size(o); }

template <class T> int64_t experts_scratch(const Experts<T>&, int rows) { return (1 + rows) * Mixture<T>::kSums; }

template <class T> void run(const Route<T>& o, const Context<T>& c) {
    const Router<T> router(o, c.scratch());
    for (int64_t b = c.index; b < c.rows(); b += c.count) router.run(c.of(o.logits, b), c.of(o.out, b));
}

template <class T> void run(const Experts<T>& o, const Context<T>& c) {
    const Mixture<T> experts(o, c);
    experts.expand();
    wait(*c.team.barriers, c.team.size);
    experts.reduce();
}

#define FASTITER_INSTANTIATE(T)                               \
    template int64_t route_scratch(const Route<T>&);          \
    template int64_t experts_scratch(const Experts<T>&, int); \
    template void run(const Route<T>&, const Context<T>&);    \
    template void run(const Experts<T>&, const Context<T>&);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::decode::FASTITER_LEVEL
