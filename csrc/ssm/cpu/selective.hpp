// Shared by the forward and the backward pass of the selective scan: the exponential of the decay, the division of the
// work, and the quantities of a tile.
#pragma once
#include "core/cpu/vmath.hpp"
#include "ssm/cpu/sequences.hpp"
#include "ssm/cpu/tiles.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

constexpr double kLog2e = 1.4426950408889634074, kLn2 = 0.6931471805599453094;

// Channel blocks in a unit of work. This bounds the partial sums of dB and dC, and does not depend on the number of
// threads, so that sums have one order.
constexpr int64_t kPanel = 8;

// Exponents of 2 up to this magnitude need no limits: 2^n and the result are normal numbers.
template <class T> constexpr T kSmallExponent = sizeof(T) == 4 ? T(125) : T(1000);

// 2^r for |r| <= 1/2, with the value 1 at 0, so that a decay of 1 is exact; in float within 1.1 units in the last
// place.
template <class T, int Count> FASTITER_INLINE void exp2_reduced(const vec<T>* r, vec<T>* y) {
    if constexpr (sizeof(T) == 8) {
        for (int i = 0; i < Count; ++i) y[i] = exp_reduced<T>(r[i] * T(kLn2));
    } else {
        constexpr float c[] = {0.693146978f, 0.240222421f, 0.0555073374f, 0.00967151266f, 0.00132647269f};
#pragma GCC unroll 16
        for (int i = 0; i < Count; ++i) y[i] = fma(broadcast(c[4]), r[i], broadcast(c[3]));
#pragma GCC unroll 3
        for (int k = 2; k >= 0; --k)
#pragma GCC unroll 16
            for (int i = 0; i < Count; ++i) y[i] = fma(y[i], r[i], broadcast(c[k]));
#pragma GCC unroll 16
        for (int i = 0; i < Count; ++i) y[i] = fma(y[i], r[i], broadcast(T(1)));
    }
}

// y[i] = 2^(d a[i]) for `Count` vectors a, operation by operation, as the latency of one is several times its share of
// the throughput. |d a| is at most kSmallExponent.
template <class T, int Count> FASTITER_INLINE void small_decay(vec<T> d, const T* a, vec<T>* y) {
    using C = ExpConstants<T>;
    vec<T> rounded[Count], r[Count];
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) rounded[i] = fma(d, load(a + i * lanes<T>), broadcast(C::round));
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) // rounded once, from the exact product
        r[i] = fma(d, load(a + i * lanes<T>), C::round - rounded[i]);
    exp2_reduced<T, Count>(r, y);
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) // adds the integer to the exponent
        y[i] = (vec<T>)((mask<T>)y[i] + ((mask<T>)rounded[i] << C::mantissa));
}

// The same; without Small, d a may be any number, and those of small magnitude have the same result as with it.
template <class T, bool Small, int Count> FASTITER_INLINE void decay(vec<T> d, const T* a, vec<T>* y) {
    small_decay<T, Count>(d, a, y);
    if constexpr (!Small) {
        constexpr T limit = sizeof(T) == 4 ? T(128) : T(1100);
        for (int i = 0; i < Count; ++i) {
            const vec<T> x = d * load(a + i * lanes<T>), inside = at_most<T>(at_least<T>(x, -limit - 25), limit);
            const vec<T> n = (inside + ExpConstants<T>::round) - ExpConstants<T>::round, r = inside - n;
            vec<T> p;
            exp2_reduced<T, 1>(&r, &p);
            y[i] = select<T>(magnitude<T>(x) <= kSmallExponent<T>, y[i], scale<T>(p, n));
        }
    }
}

// The division of the channels: G groups of equal size in panels of kPanel blocks of one vector each. A unit of work is
// a panel of a sequence.
template <class T> struct Panels {
    int64_t per_group_channels, blocks, panels, units;

    explicit Panels(const SelectiveShape& s)
        : per_group_channels(s.D / s.G), blocks(ceil_div(per_group_channels, lanes<T>)),
          panels(ceil_div(blocks, kPanel)), units(s.sequences.count * s.G * panels) {}
};

// A unit: some blocks of the channels of a group of a sequence
template <class T> struct Unit {
    int64_t sequence, group, panel, first_channel, channels, blocks;

    Unit(const SelectiveShape& s, const Panels<T>& p, int64_t index)
        : sequence(index / (s.G * p.panels)), group(index / p.panels % s.G), panel(index % p.panels) {
        const int64_t from = panel * kPanel * lanes<T>;
        first_channel = group * p.per_group_channels + from;
        channels = min_of(kPanel * lanes<T>, p.per_group_channels - from);
        blocks = ceil_div(channels, lanes<T>);
    }
    // Channels of block b
    int64_t width(int64_t b) const { return min_of(lanes<T>, channels - b * lanes<T>); }
    int64_t channel(int64_t b) const { return first_channel + b * lanes<T>; }
};

// B or C of a tile: numbers of a state n at step t for all channels, at data[t * time + n], or, for Lanes, a vector of
// channels there.
template <class T> struct Weights {
    T* data = nullptr;
    int64_t time = 0;
};

template <class T, bool Lanes> FASTITER_INLINE vec<T> weight(const Weights<T>& w, int64_t t, int64_t n) {
    if constexpr (Lanes)
        return load(w.data + t * w.time + n * lanes<T>);
    else
        return broadcast(w.data[t * w.time + n]);
}

// log(1 + e^x), as torch has it: x itself above 20. In float a polynomial takes the place of log_sigmoid's division.
template <class T> FASTITER_INLINE vec<T> softplus(vec<T> x) {
    vec<T> y;
    if constexpr (sizeof(T) == 8) {
        y = -log_sigmoid<T>(-x);
    } else {
        // minimax on 0 <= e <= 1 of log(1 + e) / e, relative error 7e-8
        constexpr float c[] = {0.99999997f,   -0.499994931f, 0.333190968f,   -0.248429818f, 0.191060051f,
                               -0.136632423f, 0.0782259105f, -0.0295052134f, 0.00523268792f};
        const vec<T> e = exp_of_nonpositive<T>(minus_magnitude<T>(x));
        vec<T> p = broadcast(c[8]);
#pragma GCC unroll 8
        for (int i = 7; i >= 0; --i) p = fma(p, e, broadcast(c[i]));
        y = fma(p, e, select<T>(x < T(0), vec<T>{}, x));
    }
    return select<T>(x > T(20), x, y);
}

// d for delta + bias = raw
template <class T> FASTITER_INLINE vec<T> step_size(vec<T> raw, bool is_softplus) {
    return is_softplus ? softplus<T>(raw) : raw;
}

// The tile of B or C of a group, (steps, N) with a whole number of vectors a step, or as vectors of channels
template <class T> struct ProjectionTile {
    T* states = nullptr;  // (kTile, N)
    T* vectors = nullptr; // (kTile, N, lanes), or (blocks, N, lanes) if fixed
    int64_t line = 0;

    // Memory for it
    void take(Cutter& memory, const Projection& x, int64_t N, bool as_lanes) {
        line = round_up(N, lanes<T>);
        if (!x.fixed) states = memory.take<T>(kTile * line);
        if (as_lanes) vectors = memory.take<T>((x.fixed ? kPanel : kTile) * N * lanes<T>);
    }
    void read_fixed(const Projection& x, int64_t N, const Unit<T>& unit) {
        const Signal matrix = states_of(static_cast<const T*>(x.states.data), 0, N);
        for (int64_t b = 0; b < unit.blocks; ++b)
            read_tile(matrix, {0, unit.channel(b), unit.width(b), 0, N}, vectors + b * N * lanes<T>);
    }
    void read(const Projection& x, int64_t N, const Sequence& q, int64_t group, int64_t time, int64_t steps) {
        Signal of_group = x.states;
        with_storage<T>(x.states, [&]<class S>(S* data) { of_group.data = data + group * x.group; });
        for (int64_t n = 0; n < N; n += lanes<T>)
            read_tile(of_group, {q.row, n, min_of(lanes<T>, N - n), q.start + time, steps}, states + n, line);
        if (!vectors) return;
        for (int64_t t = 0; t < steps; ++t)
            for (int64_t n = 0; n < N; ++n) store(vectors + (t * N + n) * lanes<T>, broadcast(states[t * line + n]));
    }
    Weights<T> weights(const Projection& x, int64_t N, int64_t block) const {
        if (x.fixed) return {vectors + block * N * lanes<T>, 0};
        return vectors ? Weights<T>{vectors, N * lanes<T>} : Weights<T>{states, line};
    }
};

// A log2 e of a unit's channels, (blocks, N, lanes), and whether exponents are small at each block for d up to a limit
template <class T> struct Exponents {
    T* values = nullptr;
    T* largest = nullptr; // of each block, the largest magnitude

    void take(Cutter& memory, int64_t N) {
        values = memory.take<T>(kPanel * N * lanes<T>);
        largest = memory.take<T>(kPanel);
    }
    void read(const T* A, int64_t N, const Unit<T>& unit) {
        for (int64_t b = 0; b < unit.blocks; ++b) {
            T* block = values + b * N * lanes<T>;
            read_tile(states_of(A, 0, N), {0, unit.channel(b), unit.width(b), 0, N}, block);
            vec<T> most{};
            for (int64_t n = 0; n < N; ++n) {
                const vec<T> a = load(block + n * lanes<T>) * T(kLog2e);
                most = max_keeping_nan(magnitude<T>(a), most);
                store(block + n * lanes<T>, a);
            }
            largest[b] = largest_of(most);
        }
    }
    // Whether |d a| <= kSmallExponent for all d whose magnitudes are at most those of `most`
    bool are_small(int64_t b, vec<T> most) const { return largest_of(most) * largest[b] <= kSmallExponent<T>; }
    // The largest lane; none is NaN
    static T largest_of(vec<T> v) {
        T most = 0;
        for (int i = 0; i < lanes<T>; ++i) most = v[i] <= most ? most : v[i];
        return most;
    }
};

} // namespace fastiter::ssm::FASTITER_LEVEL
