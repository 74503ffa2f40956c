// Shared by the forward and the backward pass of the selective scan: the division of the work, and the data of a tile.
// Complex numbers are pairs of real ones in memory, so that a channel has 2 N numbers for N states.
#pragma once
#include "ssm/cpu/selective/decay.hpp"
#include "ssm/cpu/sequences.hpp"
#include "ssm/cpu/tiles.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// Blocks of channels in a unit of work. It bounds the number of partial sums of dB and dC, and does not depend on the
// number of threads, so that the order of summation is fixed.
constexpr int64_t kPanel = 8;

// The division of the channels: G groups of equal size, in panels of kPanel blocks of one vector each. A unit of work
// is one panel of one sequence.
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

// Whether a result is written past the caches, and so not prefetched: it exceeds them, and its tiles are whole lines.
template <class T> bool streams(const Signal& x, const SelectiveShape& s) {
    constexpr int64_t W = lanes<T>;
    if (kVectorBytes != 64 || !x.data || s.sequences.starts) return false;
    if (x.storage != (sizeof(T) == 8 ? Storage::f64 : Storage::f32)) return false;
    if (s.sequences.count * s.sequences.T * s.D * int64_t(sizeof(T)) <= kCached) return false;
    const bool by_time = x.time == 1 && x.channel % W == 0;
    const bool by_channel = x.channel == 1 && x.time % W == 0 && s.D / s.G % W == 0;
    return (by_time || by_channel) && x.row % W == 0 && reinterpret_cast<uintptr_t>(x.data) % kVectorBytes == 0;
}

// The cache lines of the next tile, prefetched into the second-level cache a few at each step of the current one: many
// at once would wait for each other, and the loop for them. They are too far apart for the hardware prefetcher, and
// with strides of a power of two they map to the same few sets of the first-level cache.
class Lines {
public:
    void clear() { count_ = next_ = 0; }
    template <class T> void add(const Signal& x, const Place& at) {
        if (!x.data) return;
        with_storage<T>(x, [&]<class S>(S* data) {
            const S* from = data + at.row * x.row + at.channel * x.channel + at.time * x.time;
            constexpr int64_t line = 64 / int64_t(sizeof(S));
            const bool by_step = x.channel == 1;
            const int64_t pieces = by_step ? at.steps : at.channels, length = by_step ? at.channels : at.steps;
            const int64_t stride = by_step ? x.time : x.channel;
            int64_t count = count_;
            for (int64_t i = 0; i < pieces; ++i, from += stride)
                for (int64_t j = 0; j < length; j += line) lines_[count++] = from + j;
            count_ = count;
        });
    }
    // Divides the lines among `steps` calls of fetch.
    void divide(int64_t steps) { share_ = ceil_div(count_, steps); }
    FASTITER_INLINE void fetch() {
        const int64_t from = next_, to = min_of(from + share_, count_);
        for (int64_t i = from; i < to; ++i) __builtin_prefetch(lines_[i], 0, 2);
        next_ = to;
    }

private:
    static constexpr int64_t kMaxLines = 8 * kTile; // 7 signals and the states, and lines of a tile in any layout
    const void* lines_[kMaxLines];
    int64_t count_ = 0, next_ = 0, share_ = 0;
};

// B or C of a tile: state n at step t for all channels is at data[t * time + n], its imaginary part `part` further on;
// with Lanes, there are vectors at these places.
template <class T> struct Weights {
    T* data = nullptr;
    int64_t time = 0, part = 0;
};

// Those from step t and state n on
template <class T, bool Complex, bool Lanes>
FASTITER_INLINE Weights<T> weights_from(const Weights<T>& w, int64_t t, int64_t n) {
    return {w.data + t * w.time + n * (Lanes ? kParts<Complex> * lanes<T> : 1), w.time, w.part};
}

// The weight of state n at the first step. For a constant n its address needs no instruction.
template <class T, bool Complex, bool Lanes> FASTITER_INLINE Number<T, Complex> weight(const Weights<T>& w, int n) {
    if constexpr (Lanes) return load_number<T, Complex>(w.data + n * kParts<Complex> * lanes<T>);
    Number<T, Complex> y;
    for (int i = 0; i < kParts<Complex>; ++i) y.part[i] = broadcast(w.data[i * w.part + n]);
    return y;
}

// The step sizes d for delta + bias = raw, and the derivatives of d
template <class T, int Count> struct StepSizes {
    vec<T> d[Count], slope[Count];

    FASTITER_INLINE StepSizes(const vec<T>* raw, bool is_softplus) {
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) {
            d[i] = raw[i];
            slope[i] = broadcast(T(1));
        }
        if (!is_softplus) return;
        vec<T> e[Count];
        exp_of_magnitudes<T, Count>(raw, e);
        softplus<T, Count>(raw, e, d);
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) slope[i] = select<T>(raw[i] > T(20), slope[i], sigmoid<T>(raw[i], e[i]));
    }
};

// Calls f.operator()<Count>(step) for the steps of a tile, several at a time.
template <class F> FASTITER_INLINE void for_steps(int64_t steps, F f) {
    int64_t t = 0;
    for (; t + 4 <= steps; t += 4) f.template operator()<4>(t);
    for (; t < steps; ++t) f.template operator()<1>(t);
}

// The tile of B or C of a group: (steps, parts, N) with a whole number of vectors per part, or as vectors of channels.
// Real and imaginary parts alternate along time, as separate steps.
template <class T, bool Complex> struct ProjectionTile {
    static constexpr int P = kParts<Complex>;
    T* states = nullptr;  // (kTile, P, N)
    T* vectors = nullptr; // (kTile, N, P, lanes), or (blocks, N, P, lanes) if fixed
    int64_t line = 0;

    // Allocates its memory.
    void take(Arena& memory, const Projection& x, int64_t N, bool as_lanes) {
        line = round_up(N, lanes<T>);
        if (!x.fixed) states = memory.take<T>(kTile * P * line);
        if (as_lanes) vectors = memory.take<T>((x.fixed ? kPanel : kTile) * N * P * lanes<T>);
    }
    void read_fixed(const Projection& x, int64_t N, const Unit<T>& unit) {
        const Signal matrix = states_of(static_cast<const T*>(x.states.data), 0, N * P);
        for (int64_t b = 0; b < unit.blocks; ++b)
            read_tile(matrix, {0, unit.channel(b), unit.width(b), 0, N * P}, vectors + b * N * P * lanes<T>);
    }
    void read(const Projection& x, int64_t N, const Sequence& q, int64_t group, int64_t time, int64_t steps) {
        Signal of_group = x.states;
        with_storage<T>(x.states, [&]<class S>(S* data) { of_group.data = data + group * x.group; });
        for (int64_t n = 0; n < N; n += lanes<T>)
            read_tile(of_group, {q.row, n, min_of(lanes<T>, N - n), (q.start + time) * P, steps * P}, states + n, line);
        if (!vectors) return;
        T* to = vectors;
        for (int64_t t = 0; t < steps; ++t)
            for (int64_t n = 0; n < N; ++n)
                for (int i = 0; i < P; ++i, to += lanes<T>) store(to, broadcast(states[(t * P + i) * line + n]));
    }
    Weights<T> weights(const Projection& x, int64_t N, int64_t block) const {
        const int64_t of_step = N * P * lanes<T>;
        if (x.fixed) return {vectors + block * of_step, 0};
        return vectors ? Weights<T>{vectors, of_step} : Weights<T>{states, P * line, line};
    }
};

// The rates of a unit's channels, (blocks, N, kRates, lanes), and whether the exponents of each block are small for d
// up to a limit
template <class T, bool Complex> struct Rates {
    static constexpr int R = kRates<Complex>, W = lanes<T>;
    T* values = nullptr;
    T* largest = nullptr;       // per block, the largest magnitude of A log2 e
    T* largest_angle = nullptr; // and of its imaginary parts

    void take(Arena& memory, int64_t N) {
        values = memory.take<T>(kPanel * N * R * W);
        largest = memory.take<T>(kPanel);
        largest_angle = memory.take<T>(kPanel);
    }
    const T* of(int64_t block, int64_t N) const { return values + block * N * R * W; }
    void read(const T* A, int64_t N, const Unit<T>& unit) {
        constexpr int P = kParts<Complex>;
        for (int64_t b = 0; b < unit.blocks; ++b) {
            T* block = values + b * N * R * W;
            // At the end of the block, where each number is read before a rate overwrites it
            const T* read = block + N * (R - P) * W;
            read_tile(states_of(A, 0, N * P), {0, unit.channel(b), unit.width(b), 0, N * P}, block + N * (R - P) * W);
            vec<T> peak{}, peak_angle{};
            for (int64_t n = 0; n < N; ++n, block += R * W, read += P * W) {
                if constexpr (Complex) {
                    store_rate<T>(block, load(read), load(read + W));
                    peak_angle = max_keeping_nan(magnitude<T>(load(block + W)), peak_angle);
                } else {
                    store(block, load(read) * T(kLog2e));
                }
                peak = max_keeping_nan(magnitude<T>(load(block)), peak);
            }
            largest[b] = largest_of(peak);
            largest_angle[b] = largest_of(peak_angle);
        }
    }
    // Whether |d a| <= kSmallExponent, and angles <= kSmallAngle, for all d with magnitudes up to those in `peak`
    bool are_small(int64_t b, vec<T> peak) const {
        const T d = largest_of(peak);
        if (!(d * largest[b] <= kSmallExponent<T>)) return false;
        constexpr T whole = T(1e30); // the halves of factors up to this are finite
        return !Complex || (d <= whole && largest_angle[b] <= whole && d * largest_angle[b] <= kSmallAngle<T>);
    }
    // The largest lane, given that none is NaN
    static T largest_of(vec<T> v) {
        T peak = 0;
        for (int i = 0; i < lanes<T>; ++i) peak = v[i] <= peak ? peak : v[i];
        return peak;
    }
};

} // namespace fastiter::ssm::FASTITER_LEVEL
