// Shared by the forward and the backward pass of linear attention: panels of the arguments, and states in scratch
// memory.
#pragma once
#include "core/cpu/vmath.hpp"
#include "ssm/cpu/attention/kernels.hpp"
#include "ssm/cpu/sequences.hpp"
#include "ssm/cpu/tiles.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// Vectors per block of columns, whose inputs and outputs for kPass steps stay in registers; kPass steps share a pass
// over the state: each of its rows is loaded and stored once for all of them.
constexpr int kColumnVectors = kVectorBytes == 64 ? 2 : 1;
constexpr int kPass = kVectorBytes == 64 ? 6 : 4;
template <class T> constexpr int64_t kColumns = kColumnVectors * lanes<T>;

// Width of a panel: the distance between the numbers of a unit at consecutive steps, a compile-time constant.
constexpr int64_t kPanelWidth = 64;
constexpr int64_t kPanelSize = kAttentionTile * kPanelWidth;

// A tile of one head in the type of the computation: panels of kPanelWidth units, (panel, step, unit), 0 beyond the
// last unit
template <class T> struct PanelTile {
    T* data = nullptr;

    void take(Arena& memory, int64_t units) { data = memory.take<T>(ceil_div(units, kPanelWidth) * kPanelSize); }
    T* at(int64_t unit, int64_t step) const {
        return data + unit / kPanelWidth * kPanelSize + step * kPanelWidth + unit % kPanelWidth;
    }
    // Reads a tile of a head; `map`, a function of a vector, is applied to all numbers.
    void read(const Heads& x, int64_t head, int64_t units, const Place& at_time) const {
        read(x, head, units, at_time, [](vec<T> v) { return v; });
    }
    template <class Map> void read(const Heads& x, int64_t head, int64_t units, const Place& at_time, Map map) const {
        with_storage<T>(x.units, [&]<class S>(S* data) {
            if (x.units.channel == 1 || units == 1)
                return read_steps<S>(data + at_time.row * x.units.row + head * x.head + at_time.time * x.units.time,
                                     x.units.time, units, at_time.steps, map);
            each_vector(x, head, units, at_time, [&](const Signal& own, const Place& at) {
                T* tile = this->at(at.channel, 0);
                read_tile(own, at, tile, kPanelWidth);
                for (int64_t t = 0; t < at.steps; ++t) store(tile + t * kPanelWidth, map(load(tile + t * kPanelWidth)));
            });
        });
    }
    void write(const Heads& x, int64_t head, int64_t units, const Place& at_time) const {
        with_storage<T>(x.units, [&]<class S>(S* data) {
            if (x.units.channel == 1 || units == 1)
                return write_steps<S>(data + at_time.row * x.units.row + head * x.head + at_time.time * x.units.time,
                                      x.units.time, units, at_time.steps);
            each_vector(x, head, units, at_time, [&](const Signal& own, const Place& at) {
                write_tile(own, at, static_cast<const T*>(this->at(at.channel, 0)), kPanelWidth);
            });
        });
    }
    void fill_zero(int64_t units, int64_t steps) const {
        for (int64_t n = 0; n < units; n += lanes<T>)
            for (int64_t t = 0; t < steps; ++t) store(at(n, t), vec<T>{});
    }

private:
    // Reads or writes steps whose units are contiguous.
    template <class S, class Map>
    FASTITER_NOINLINE void read_steps(const S* from, int64_t line, int64_t units, int64_t steps, Map map) const {
        for (int64_t panel = 0; panel < units; panel += kPanelWidth) {
            const int64_t width = min_of(kPanelWidth, units - panel), whole = width / lanes<T> * lanes<T>;
            T* to = at(panel, 0);
            for (int64_t t = 0; t < steps; ++t, to += kPanelWidth) {
                const S* step = from + t * line + panel;
                for (int64_t n = 0; n < whole; n += lanes<T>) store(to + n, map(load(step + n)));
                if (whole < width) store(to + whole, map(load_first(step + whole, int(width - whole))));
            }
        }
    }
    template <class S> FASTITER_NOINLINE void write_steps(S* to, int64_t line, int64_t units, int64_t steps) const {
        for (int64_t panel = 0; panel < units; panel += kPanelWidth) {
            const int64_t width = min_of(kPanelWidth, units - panel), whole = width / lanes<T> * lanes<T>;
            const T* from = at(panel, 0);
            for (int64_t t = 0; t < steps; ++t, from += kPanelWidth) {
                S* step = to + t * line + panel;
                for (int64_t n = 0; n < whole; n += lanes<T>) store(step + n, load(from + n));
                if (whole < width) store_first(step + whole, load(from + whole), int(width - whole));
            }
        }
    }
    template <class F> static void each_vector(const Heads& x, int64_t head, int64_t units, const Place& at_time, F f) {
        Signal own = x.units;
        with_storage<T>(own, [&]<class S>(S* data) { own.data = data + head * x.head; });
        for (int64_t n = 0; n < units; n += lanes<T>)
            f(own, {at_time.row, n, min_of(lanes<T>, units - n), at_time.time, at_time.steps});
    }
};

// A tile in whole blocks of columns: in place if the array's columns are contiguous and have the type of the
// computation, else copied to a panel
template <class T> struct Columns {
    PanelTile<T> panel;
    T* array = nullptr; // its first step in the tile
    int64_t line = kPanelWidth;

    // Chooses between array and panel; returns whether it is the array.
    bool place(const Heads& x, int64_t head, int64_t units, const Place& at) {
        constexpr Storage storage = sizeof(T) == 8 ? Storage::f64 : Storage::f32;
        const bool fits = x.units.channel == 1 && x.units.storage == storage && units % kColumns<T> == 0;
        line = fits ? x.units.time : kPanelWidth;
        array = fits ? static_cast<T*>(x.units.data) + at.row * x.units.row + head * x.head + at.time * x.units.time
                     : nullptr;
        return fits;
    }
    T* at(int64_t column, int64_t step) const { return array ? array + step * line + column : panel.at(column, step); }
};

// The next tile of several signals, prefetched a few steps at a time during the passes over the current one:
// prefetching all of it at once would fill the queue of outstanding cache misses and stall the computation. The
// hardware prefetcher does not follow the steps of a head, which are far apart.
class Upcoming {
public:
    // Begins a tile that is prefetched in `shares` shares.
    void begin(int64_t shares) {
        shares_ = max_of(shares, 1);
        steps_ = due_ = 0;
        count_ = next_ = 0;
    }
    template <class T> void add(const Heads& x, int64_t head, int64_t units, const Place& at) {
        if (!x.units.data || (x.units.channel != 1 && units > 1) || at.steps <= 0) return;
        with_storage<T>(x.units, [&]<class S>(S* data) {
            const S* from = data + head * x.head + at.row * x.units.row + at.time * x.units.time;
            tiles_[count_++] = {reinterpret_cast<const char*>(from), x.units.time * int64_t(sizeof(S)),
                                units * int64_t(sizeof(S)), at.steps};
        });
        steps_ += at.steps;
    }
    // Prefetches a share into the cache of level LEVEL.
    template <int LEVEL = 1> FASTITER_INLINE void prefetch_share() {
        for (due_ += steps_; due_ >= shares_ && next_ < count_; due_ -= shares_) {
            Tile& tile = tiles_[next_];
            prefetch<LEVEL>(tile.step, tile.bytes);
            tile.step += tile.stride;
            if (--tile.steps == 0) ++next_;
        }
    }

private:
    struct Tile {
        const char* step;
        int64_t stride, bytes, steps;
    };
    Tile tiles_[16];
    int64_t shares_ = 1, steps_ = 0, due_ = 0; // steps of all tiles; those that are due, times the shares
    int count_ = 0, next_ = 0;
};

// Rows of the state per prefetched share of the next tile
constexpr int64_t kPrefetchRows = 8;

// Reads one number per step of a tile, 0 beyond the last step.
template <class T> FASTITER_NOINLINE void read_numbers(const Heads& x, int64_t head, const Place& at, T* to) {
    with_storage<T>(x.units, [&]<class S>(S* data) {
        const S* from = data + head * x.head + at.row * x.units.row + at.time * x.units.time;
        for (int64_t t = 0; t < at.steps; ++t) to[t] = load_first(from + t * x.units.time, 1)[0];
    });
    for (int64_t t = at.steps; t < kAttentionTile; ++t) to[t] = 0;
}

// Numbers of the decay per step
FASTITER_INLINE int64_t decay_units(const AttentionShape& s) { return s.decay == Decay::vector ? s.K : 1; }

// Reads the decay of a tile as a factor.
template <class T>
FASTITER_NOINLINE void read_decay(const AttentionShape& s, const Heads& decay, int64_t head, const Place& at,
                                  const PanelTile<T>& tile) {
    if (s.decay == Decay::none) return;
    const int64_t units = decay_units(s);
    if (s.form == DecayForm::logarithm)
        tile.read(decay, head, units, at, [](vec<T> g) { return exp<T>(g); });
    else
        tile.read(decay, head, units, at);
}

// Reads a tile of q, multiplied by the scale.
template <class T>
FASTITER_NOINLINE void read_scaled(const Heads& q, int64_t head, int64_t units, const Place& at, double scale,
                                   const PanelTile<T>& tile) {
    if (scale == 1) return tile.read(q, head, units, at);
    tile.read(q, head, units, at, [factor = T(scale)](vec<T> v) { return v * factor; });
}

// Multiplies a tile of q by the scale.
template <class T>
FASTITER_NOINLINE void scale_tile(const PanelTile<T>& tile, int64_t units, int64_t steps, double scale) {
    if (scale == 1) return;
    for (int64_t n = 0; n < units; n += lanes<T>)
        for (int64_t t = 0; t < steps; ++t) store(tile.at(n, t), load(tile.at(n, t)) * T(scale));
}

// The vectors of `Count` steps, copied to stay in registers during a pass: the compiler cannot tell that the stores of
// the pass do not alias them.
template <class T, int Count> struct StepVectors {
    vec<T> at[Count];
    FASTITER_INLINE explicit StepVectors(const T* p) {
#pragma GCC unroll 8
        for (int t = 0; t < Count; ++t) at[t] = load(p + t * kPanelWidth);
    }
};
// The same for the decay
template <class T, int Count, Decay D> struct StepDecays {
    vec<T> at[Count];
    FASTITER_INLINE explicit StepDecays(const T* p) {
#pragma GCC unroll 8
        for (int t = 0; t < Count; ++t)
            if constexpr (D != Decay::none)
                at[t] = D == Decay::vector ? load(p + t * kPanelWidth) : broadcast(p[t * kPanelWidth]);
    }
    FASTITER_INLINE vec<T> apply(int t, vec<T> x) const {
        if constexpr (D == Decay::none) return x;
        return at[t] * x;
    }
};

// Fills the columns from V up to a whole block, which are computed too.
template <class T> FASTITER_NOINLINE void pad_columns(const PanelTile<T>& tile, int64_t V, int64_t steps) {
    for (int64_t n = round_up(V, lanes<T>); n < round_up(V, kColumns<T>); n += lanes<T>)
        for (int64_t t = 0; t < steps; ++t) store(tile.at(n, t), vec<T>{});
}

template <class T> FASTITER_INLINE T sum_of(vec<T> v) {
    T sum = v[0];
    for (int i = 1; i < lanes<T>; ++i) sum += v[i];
    return sum;
}

// sum over k of q[k] bonus[k] k[k] at a step
template <class T>
FASTITER_NOINLINE T bonus_product(const PanelTile<T>& q, const PanelTile<T>& k, const T* bonus, int64_t K,
                                  int64_t step) {
    vec<T> sum{};
    for (int64_t n = 0; n < K; n += lanes<T>)
        sum = fma(load(q.at(n, step)) * load_up_to(bonus + n, K - n), load(k.at(n, step)), sum);
    return sum_of<T>(sum);
}

// Writes a tile of a gradient to which the value heads of a group are added in turn; `sum` is scratch memory.
template <class T>
FASTITER_NOINLINE void add_to_group(const Heads& x, int64_t key_head, const PanelTile<T>& tile, const PanelTile<T>& sum,
                                    int64_t K, const Place& at, bool is_first) {
    if (!is_first) {
        sum.read(x, key_head, K, at);
        for (int64_t n = 0; n < K; n += lanes<T>)
            for (int64_t t = 0; t < at.steps; ++t) store(tile.at(n, t), load(sum.at(n, t)) + load(tile.at(n, t)));
    }
    tile.write(x, key_head, K, at);
}

// The gradient of a decay shared by all rows is the sum over K, in unit 0.
template <class T> FASTITER_NOINLINE void add_rows(const PanelTile<T>& ddecay, int64_t K, int64_t steps) {
    for (int64_t t = 0; t < steps; ++t) {
        vec<T> sum = load(ddecay.at(0, t));
        for (int64_t n = lanes<T>; n < K; n += lanes<T>) sum += load(ddecay.at(n, t));
        store(ddecay.at(0, t), broadcast(sum_of<T>(sum)));
    }
}

// Makes the gradient of a decay that of what is given for it: of a logarithm, the gradient times the decay.
template <class T>
FASTITER_NOINLINE void through_form(const AttentionShape& s, const PanelTile<T>& decay, const PanelTile<T>& ddecay,
                                    int64_t steps) {
    if (s.form == DecayForm::factor) return;
    for (int64_t n = 0; n < decay_units(s); n += lanes<T>)
        for (int64_t t = 0; t < steps; ++t) store(ddecay.at(n, t), load(ddecay.at(n, t)) * load(decay.at(n, t)));
}

// The states of a head with columns in the lanes: blocks of kColumns columns, (block, K, kColumns), 0 beyond V
template <class T> struct ColumnStates {
    T* data = nullptr;
    int64_t K = 0, V = 0;

    void take(Arena& memory, int64_t rows, int64_t columns, int64_t heads = 1) {
        K = rows;
        V = columns;
        data = memory.take<T>(heads * size());
    }
    int64_t blocks() const { return ceil_div(V, kColumns<T>); }
    int64_t size() const { return blocks() * K * kColumns<T>; }
    // The states of one of several heads
    ColumnStates of(int64_t head) const { return {data + head * size(), K, V}; }
    T* block(int64_t b) const { return data + b * K * kColumns<T>; }
    void fill_zero() const {
        for (int64_t i = 0; i < size(); i += lanes<T>) store(data + i, vec<T>{});
    }
    // Copies from and to a contiguous (K, V); nullptr: zeros
    void read(const T* from) const {
        if (!from) return fill_zero();
        each([&](T* own, int64_t place, int64_t count) { store(own, load_up_to(from + place, count)); });
    }
    void write(T* to) const {
        each([&](T* own, int64_t place, int64_t count) {
            if (count > 0) store_up_to(to + place, load(own), count);
        });
    }

private:
    template <class F> FASTITER_INLINE void each(F f) const {
        for (int64_t b = 0; b < blocks(); ++b)
            for (int64_t k = 0; k < K; ++k)
                for (int64_t c = 0; c < kColumns<T>; c += lanes<T>) {
                    const int64_t column = b * kColumns<T> + c;
                    f(block(b) + k * kColumns<T> + c, k * V + column, max_of(V - column, 0));
                }
    }
};

// Bytes of the states of the heads that a thread computes together, a quarter of a second-level cache of 1 MB
constexpr int64_t kBytesTogether = 1 << 18;

// Value heads of a sequence of `steps` steps that run together, each with `copies` copies of a state: one if there is a
// single tile, so that its state does not leave the first-level cache
template <class T> int64_t heads_together(const AttentionShape& s, int64_t steps, int64_t copies) {
    const int64_t bytes = copies * round_up(s.V, kColumns<T>) * s.K * int64_t(sizeof(T));
    return steps <= kAttentionTile ? 1 : max_of(1, min_of(s.heads, kBytesTogether / max_of(bytes, 1)));
}

// Calls f(sequence, first unit, number of units) for the units [first, last), (sequence, value head), divided into those
// of a sequence that run together.
template <class T, class F>
void for_heads_together(const AttentionShape& s, int64_t copies, int64_t first, int64_t last, F f) {
    for (int64_t unit = first, count; unit < last; unit += count) {
        const Sequence q = sequence(s.sequences, unit / s.heads);
        count = min_of(min_of(s.heads - unit % s.heads, last - unit), heads_together<T>(s, q.padded, copies));
        f(q, unit, count);
    }
}

// The passes of a tile: each has at most `limit` steps and contains no reset except at its first step.
struct Passes {
    int32_t count = 0;
    int32_t start[kAttentionTile + 1];

    Passes(int64_t steps, int limit, const uint8_t* reset) {
        for (int64_t t = 0; t < steps;) {
            start[count++] = int32_t(t);
            int64_t to = t + 1;
            // A pass has either `limit` steps or one: each case has its own code.
            while (to < min_of(steps, t + limit) && !(reset && reset[to])) ++to;
            t = to - t == limit ? to : t + 1;
        }
        start[count] = int32_t(steps);
    }
};

} // namespace fastiter::ssm::FASTITER_LEVEL
