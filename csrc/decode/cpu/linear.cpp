// Products with packed matrices: the embedding and linear layers.
#include "decode/cpu/products.hpp"

namespace fastiter::decode::FASTITER_LEVEL {
namespace {

// y = scale activation(y + bias) for `count` outputs from output `first` on
template <class T> void finish(const Linear<T>& o, int64_t first, int64_t count, T* y) {
    if (o.bias)
        for_vectors<T>({0, count}, [&](int64_t i, int64_t n) {
            store_up_to(y + i, load_up_to(y + i, n) + load_up_to(o.bias + first + i, n), n);
        });
    if (o.activation != Activation::none) activate(o.activation, T(1), y, y, count);
    if (o.scale != T(1))
        for_vectors<T>({0, count},
                       [&](int64_t i, int64_t n) { store_up_to(y + i, o.scale * load_up_to(y + i, n), n); });
}

template <class T> class Layer {
public:
    Layer(const Linear<T>& o, const Context<T>& c) : o_(o), c_(c), sums_(c.scratch()) {}

    void write(Range tiles) const {
        T* const out = c_.of(o_.out, 0) + tiles.begin * kTile;
        product(o_.w, tiles, c_.rows(), c_.of(o_.x, 0), o_.x.row, out, o_.out.row);
        for (int64_t b = 0; b < c_.rows(); ++b) finish(o_, tiles.begin * kTile, count(tiles), out + b * o_.out.row);
    }

    void add(Range tiles) const {
        constexpr int64_t row = kTilesTogether * kTile;
        product(o_.w, tiles, c_.rows(), c_.of(o_.x, 0), o_.x.row, sums_, row);
        for (int64_t b = 0; b < c_.rows(); ++b) {
            T *const y = sums_ + b * row, *const out = c_.of(o_.out, b) + tiles.begin * kTile;
            finish(o_, tiles.begin * kTile, count(tiles), y);
            for_vectors<T>({0, count(tiles)}, [&](int64_t i, int64_t n) {
                store_up_to(out + i, load_up_to(out + i, n) + load_up_to(y + i, n), n);
            });
        }
    }

private:
    int64_t count(Range tiles) const { return min_of(tiles.end * kTile, o_.w.N) - tiles.begin * kTile; }

    const Linear<T>& o_;
    const Context<T>& c_;
    T* sums_;
};

} // namespace

template <class T> int64_t linear_scratch(const Linear<T>& o, int rows) {
    return o.adds ? rows * kTilesTogether * kTile : 0;
}

template <class T> void run(const Linear<T>& o, const Context<T>& c) {
    const Layer<T> layer(o, c);
    int64_t begin = 0;
    for (int piece = 0; begin < o.w.N; ++piece) {
        const int64_t end = piece < kCuts && o.cuts[piece] ? o.cuts[piece] : o.w.N;
        const int64_t first = begin / kTile;
        const Range mine = c.part(ceil_div(end - begin, kTile)), tiles{first + mine.begin, first + mine.end};
        if (!o.adds && tiles.begin < tiles.end) layer.write(tiles);
        for (int64_t t = tiles.begin; o.adds && t < tiles.end; t += kTilesTogether)
            layer.add({t, min_of(t + kTilesTogether, tiles.end)});
        begin = end;
    }
}

template <class T> void run(const Embed<T>& o, const Context<T>& c) {
    for (int64_t b = c.index; b < c.rows(); b += c.count) {
        T* const out = c.of(o.out, b);
        const int64_t token = c.step.tokens[b];
        decode::kernels_of<T>(packed, o.table).unpack(o.table, {token, token + 1}, out, o.out.row);
        if (o.scale != T(1))
            for_vectors<T>({0, o.out.size},
                           [&](int64_t i, int64_t n) { store_up_to(out + i, o.scale * load_up_to(out + i, n), n); });
    }
}

#define FASTITER_INSTANTIATE(T)                             \
    template int64_t linear_scratch(const Linear<T>&, int); \
    template void run(const Linear<T>&, const Context<T>&); \
    template void run(const Embed<T>&, const Context<T>&);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)

} // namespace fastiter::decode::FASTITER_LEVEL
