// RWKV-4's attention: a loop over time, vectorised over the channels. A unit of work is a block of channels of one row.
#include "core/cpu/vmath.hpp"
#include "ssm/cpu/sums.hpp"
#include "ssm/cpu/wkv/kernels.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

constexpr int kForward = 4, kBackward = 2; // vectors of a whole block, which overlap their latencies
constexpr double kNoMaximum = -1e38;

// Factors e^-|x| and 1 of the larger and the smaller of two numbers that are scaled by their maximum: `former` is that of
// the first one, `added` that of the second, for x = first - second.
template <class T> struct Factors {
    vec<T> former, added;

    Factors(vec<T> x, vec<T> e) {
        former = select<T>(x < T(0), e, broadcast(T(1)));
        added = select<T>(x < T(0), broadcast(T(1)), e);
    }
    explicit Factors(vec<T> x) : Factors(x, exp_of_nonpositive<T>(minus_magnitude<T>(x))) {}
};

// The state of a vector of channels, and their constants
template <class T> struct Channels {
    vec<T> w, bonus, p, q, m;

    Factors<T> of_output(vec<T> k) const { return Factors<T>(m - (k + bonus)); }
    Factors<T> advance(vec<T> k, vec<T> v) {
        const vec<T> decayed = m + w;
        const Factors<T> f(decayed - k);
        p = fma(f.former, p, f.added * v);
        q = fma(f.former, q, f.added);
        m = max_keeping_nan(decayed, k);
        return f;
    }
};

// `Count` vectors of channels of a row, of which the last one may be incomplete
template <class T, int Count> struct Block {
    static constexpr int W = lanes<T>;
    const Wkv<T>& p;
    int64_t row, channel, width;
    Channels<T> at[Count];

    Block(const Wkv<T>& wkv, int64_t r, int64_t c, int64_t n) : p(wkv), row(r), channel(c), width(n) {
        for (int i = 0; i < Count; ++i) {
            at[i].w = get(p.w + channel, i);
            at[i].bonus = get(p.bonus + channel, i);
            at[i].p = first(p.first.numerator, i, T(0));
            at[i].q = first(p.first.denominator, i, T(0));
            at[i].m = first(p.first.m, i, T(kNoMaximum));
        }
    }
    vec<T> get(const T* data, int i) const { return load_up_to(data + i * W, width - i * W); }
    void put(T* data, int i, vec<T> x) const { store_up_to(data + i * W, x, width - i * W); }
    vec<T> first(const T* data, int i, T otherwise) const {
        return data ? get(data + row * p.D + channel, i) : broadcast(otherwise);
    }
    template <class S> S* step(const WkvSteps<S>& x, int64_t t) const {
        return x.data ? x.data + row * x.row + t * x.time + channel : nullptr;
    }
    T* saved(int64_t tile) const { return p.states + (row * ceil_div(p.time, kWkvTile) + tile) * 3 * p.D + channel; }
    void save(int64_t tile) const {
        for (int i = 0; i < Count && p.states; ++i) {
            put(saved(tile), i, at[i].p);
            put(saved(tile) + p.D, i, at[i].q);
            put(saved(tile) + 2 * p.D, i, at[i].m);
        }
    }
    void restore(int64_t tile) {
        for (int i = 0; i < Count; ++i) {
            at[i].p = get(saved(tile), i);
            at[i].q = get(saved(tile) + p.D, i);
            at[i].m = get(saved(tile) + 2 * p.D, i);
        }
    }
    // Writes a state of the row, the parts of which may be null
    void put_state(const WkvState<T>& state, int i, vec<T> x, vec<T> y, vec<T> z) const {
        const int64_t place = row * p.D + channel;
        if (state.numerator) put(state.numerator + place, i, x);
        if (state.denominator) put(state.denominator + place, i, y);
        if (state.m) put(state.m + place, i, z);
    }
};

template <class T, int Count> FASTITER_NOINLINE void forward_steps(Block<T, Count>& block, int64_t from, int64_t to) {
    Channels<T> at[Count];
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) at[i] = block.at[i];
    for (int64_t t = from; t < to; ++t) {
        const T *k = block.step(block.p.k, t), *v = block.step(block.p.v, t);
        T* out = block.step(block.p.out, t);
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) {
            const vec<T> key = block.get(k, i), value = block.get(v, i);
            const Factors<T> f = at[i].of_output(key);
            block.put(out, i, fma(f.former, at[i].p, f.added * value) / fma(f.former, at[i].q, f.added));
            at[i].advance(key, value);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) block.at[i] = at[i];
}

template <class T, int Count> void forward_block(const Wkv<T>& p, int64_t row, int64_t channel, Team team) {
    Block<T, Count> block(p, row, channel, p.D - channel);
    for (int64_t t = 0; t < p.time; t += kWkvTile) {
        block.save(t / kWkvTile);
        forward_steps(block, t, min_of(p.time, t + kWkvTile));
        if (has_to_stop(team, 16 * kWkvTile * Count * lanes<T>)) return;
    }
    for (int i = 0; i < Count; ++i) block.put_state(p.last, i, block.at[i].p, block.at[i].q, block.at[i].m);
}

// The gradients of a block's state, and the sums of those of its constants
template <class T, int Count> struct Gradients {
    struct Lane {
        vec<T> p, q, m, w, bonus;
    };
    // The state before a step, and the e of its factors
    struct Step {
        vec<T> p, q, m, e;
    };
    Lane at[Count];
    Step steps[kWkvTile][Count];

    // Runs the steps of a tile again and keeps what its backward pass reads.
    FASTITER_NOINLINE void recompute(Block<T, Count>& block, int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t) {
            const T *k = block.step(block.p.k, t), *v = block.step(block.p.v, t);
#pragma GCC unroll 2
            for (int i = 0; i < Count; ++i) {
                Channels<T>& c = block.at[i];
                Step& step = steps[t - from][i];
                step.p = c.p;
                step.q = c.q;
                step.m = c.m;
                const Factors<T> f = c.advance(block.get(k, i), block.get(v, i));
                step.e = select<T>(f.former < T(1), f.former, f.added);
            }
        }
    }

    // The end of the row: p and q are divided by e^m, so the gradient of m is without what they lose through it.
    void begin(const Block<T, Count>& block, const WkvState<const T>& dlast) {
        for (int i = 0; i < Count; ++i) {
            const Channels<T>& c = block.at[i];
            Lane& d = at[i];
            d.p = block.first(dlast.numerator, i, T(0));
            d.q = block.first(dlast.denominator, i, T(0));
            d.m = block.first(dlast.m, i, T(0)) - fma(d.p, c.p, d.q * c.q);
            d.w = d.bonus = vec<T>{};
        }
    }

    FASTITER_NOINLINE void backward(const Block<T, Count>& block, const WkvGradient<T>& g, int64_t from, int64_t to) {
        vec<T> dw[Count] = {}, dbonus[Count] = {}; // sums of a tile, which limit the growth of rounding errors
        for (int64_t t = to - 1; t >= from; --t) {
            const T *k = block.step(block.p.k, t), *v = block.step(block.p.v, t), *dout = block.step(g.d_out, t);
            T *dk = block.step(g.dk, t), *dv = block.step(g.dv, t);
#pragma GCC unroll 2
            for (int i = 0; i < Count; ++i) {
                const Step& step = steps[t - from][i];
                Channels<T> c = block.at[i];
                c.p = step.p;
                c.q = step.q;
                c.m = step.m;
                const vec<T> key = block.get(k, i), value = block.get(v, i);
                const vec<T> apart = c.m + c.w - key;
                const Factors<T> f(apart, step.e), o = c.of_output(key);
                Lane& d = at[i];
                const vec<T> above = fma(o.former, c.p, o.added * value), below = fma(o.former, c.q, o.added);
                const vec<T> dy = dout ? block.get(dout, i) / below : vec<T>{}, y = above / below;
                const vec<T> of_bonus = o.added * (dy * (value - y));
                const vec<T> of_scale = select<T>(apart < T(0), vec<T>{}, d.m);
                if (dv) block.put(dv, i, fma(o.added, dy, f.added * d.p));
                if (dk) block.put(dk, i, fma(f.added, fma(d.p, value, d.q), of_bonus) + (d.m - of_scale));
                dbonus[i] += of_bonus;
                dw[i] += fma(f.former, fma(d.p, c.p, d.q * c.q), of_scale);
                d.m = of_scale;
                d.p = fma(f.former, d.p, o.former * dy);
                d.q = fma(f.former, d.q, -(o.former * (dy * y)));
            }
        }
        for (int i = 0; i < Count; ++i) {
            at[i].w += dw[i];
            at[i].bonus += dbonus[i];
        }
    }

    void end(const Block<T, Count>& block, const WkvGradient<T>& g) const {
        T* sums = g.workspace + block.row * 2 * block.p.D + block.channel;
        for (int i = 0; i < Count; ++i) {
            const Lane& d = at[i];
            const vec<T> p = block.first(block.p.first.numerator, i, T(0)),
                         q = block.first(block.p.first.denominator, i, T(0));
            block.put_state(g.dfirst, i, d.p, d.q, d.m + fma(d.p, p, d.q * q));
            block.put(sums, i, d.w);
            block.put(sums + block.p.D, i, d.bonus);
        }
    }
};

template <class T, int Count> void backward_block(const WkvGradient<T>& g, int64_t row, int64_t channel, Team team) {
    const Wkv<T>& p = g.forward;
    Block<T, Count> block(p, row, channel, p.D - channel);
    Gradients<T, Count> gradients;
    const int64_t tiles = ceil_div(p.time, kWkvTile);
    const auto end_of = [&](int64_t tile) { return min_of(p.time, (tile + 1) * kWkvTile); };
    const auto recompute = [&](int64_t tile) {
        block.restore(tile);
        gradients.recompute(block, tile * kWkvTile, end_of(tile));
    };
    if (tiles) recompute(tiles - 1);
    gradients.begin(block, g.dlast);
    for (int64_t tile = tiles - 1; tile >= 0; --tile) {
        gradients.backward(block, g, tile * kWkvTile, end_of(tile));
        if (tile) recompute(tile - 1);
        if (has_to_stop(team, 32 * kWkvTile * Count * lanes<T>)) return;
    }
    gradients.end(block, g);
}

// Calls run<Count>(row, channel) for this thread's share of the blocks of `Whole` vectors; those of incomplete blocks
// are run one by one.
template <class T, int Whole, class F> void for_blocks(const Wkv<T>& p, Team team, F run) {
    constexpr int64_t W = lanes<T>, width = Whole * W;
    const int64_t blocks = ceil_div(p.D, width), units = p.B * blocks;
    for (int64_t u = units * team.id / team.size; u < units * (team.id + 1) / team.size; ++u) {
        const int64_t row = u / blocks, channel = u % blocks * width;
        if (channel + width <= p.D)
            run.template operator()<Whole>(row, channel);
        else
            for (int64_t c = channel; c < p.D; c += W) run.template operator()<1>(row, c);
    }
}

template <class T> void forward(const Wkv<T>& p, Team team) {
    for_blocks<T, kForward>(
        p, team, [&]<int Count>(int64_t row, int64_t channel) { forward_block<T, Count>(p, row, channel, team); });
}

template <class T> void gradient(const WkvGradient<T>& g, Team team) {
    const Wkv<T>& p = g.forward;
    for_blocks<T, kBackward>(
        p, team, [&]<int Count>(int64_t row, int64_t channel) { backward_block<T, Count>(g, row, channel, team); });
    wait(team.barriers[0], team.size);
    const int64_t share = round_up(ceil_div(p.D, team.size), lanes<T>), to = min_of(p.D, (team.id + 1) * share);
    for (int64_t c = team.id * share; c < to; c += lanes<T>) {
        vec<T> dw{}, dbonus{};
        for (int64_t row = 0; row < p.B; ++row) {
            const T* sums = g.workspace + row * 2 * p.D + c;
            dw += load_up_to(sums, to - c);
            dbonus += load_up_to(sums + p.D, to - c);
        }
        if (g.dw) store_up_to(g.dw + c, dw, to - c);
        if (g.dbonus) store_up_to(g.dbonus + c, dbonus, to - c);
    }
}

template <class T> constexpr WkvKernelsOf<T> kernels_of = {forward<T>, gradient<T>};

} // namespace

const WkvKernels wkv_kernels = {kernels_of<float>, kernels_of<double>};

} // namespace fastiter::ssm::FASTITER_LEVEL
