// Shared by the passes of the causal convolution: the division of the work into blocks of vectors, and the sums over
// taps. A block is stored in the type of the computation, together with the inputs before it, in one of two layouts.
// Lanes: a vector of channels at each step. Rows: one channel along time, for signals that are contiguous in time. In
// both, tap j of vector i is the vector at data + i * lanes + j * tap, where `tap` is 1 for rows and `lanes` for lanes.
#pragma once
#include "core/cpu/vmath.hpp"
#include "ssm/cpu/conv/kernels.hpp"
#include "ssm/cpu/sequences.hpp"
#include "ssm/cpu/sums.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// An integer of the size of T, as vector comparisons require
template <class T> using label = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The inputs of a block
template <class T> struct Taps {
    const T* data;
    int64_t tap;

    FASTITER_INLINE vec<T> operator()(int64_t i, int64_t j) const { return load(data + i * lanes<T> + j * tap); }
    static FASTITER_INLINE vec<T> own(int64_t, vec<T> y) { return y; }
};

// The same if each step belongs to a labelled sequence: inputs of other sequences and of none count as 0, and results
// at steps without a sequence are 0.
template <class T> struct LabelledTaps {
    Taps<T> taps;
    const label<T>* labels; // label of each step
    int64_t self;           // the tap that is the step itself

    FASTITER_INLINE mask<T> label_at(int64_t i, int64_t j) const {
        if (taps.tap == 1) return (mask<T>)load(reinterpret_cast<const T*>(labels + i * lanes<T> + j));
        return mask<T>{} + labels[i + j];
    }
    FASTITER_INLINE vec<T> operator()(int64_t i, int64_t j) const {
        const mask<T> label = label_at(i, j);
        return select<T>((label == label_at(i, self)) & (label >= mask<T>{}), taps(i, j), vec<T>{});
    }
    FASTITER_INLINE vec<T> own(int64_t i, vec<T> y) const {
        return select<T>(label_at(i, self) >= mask<T>{}, y, vec<T>{});
    }
};

// The weights of the taps and the bias: W + 1 vectors
template <class T> struct Filter {
    const T* vectors;
    int64_t W;
    FASTITER_INLINE vec<T> operator[](int64_t j) const { return load(vectors + j * lanes<T>); }
};

// Calls f.template operator()<W>() for the filter lengths with specialised code, else with 0.
template <class F> FASTITER_INLINE void with_taps(int64_t W, F f) {
    if (W == 4)
        f.template operator()<4>();
    else if (W == 3)
        f.template operator()<3>();
    else if (W == 2)
        f.template operator()<2>();
    else
        f.template operator()<0>();
}

// The sum over taps for one vector; Known: the number of taps if it is known at compile time, else 0
template <class T, int Known, class In> FASTITER_INLINE vec<T> tap_sum(const Filter<T>& filter, In x, int64_t i) {
    vec<T> sum = filter[filter.W];
    if constexpr (Known > 0) {
#pragma GCC unroll 4
        for (int j = 0; j < Known; ++j) sum = fma(filter[j], x(i, j), sum);
    } else {
        for (int64_t j = 0; j < filter.W; ++j) sum = fma(filter[j], x(i, j), sum);
    }
    return sum;
}

// y[i] = the convolution, for vectors i at y + i * stride
template <class T, int Known, bool Silu, class In>
FASTITER_NOINLINE void convolve(Filter<T> filter, In x, int64_t count, T* y, int64_t stride) {
    for (int64_t i = 0; i < count; ++i) {
        vec<T> sum = tap_sum<T, Known>(filter, x, i);
        if constexpr (Silu) sum *= sigmoid<T>(sum);
        store(y + i * stride, x.own(i, sum));
    }
}

template <class T, bool Silu>
FASTITER_INLINE void convolve(const Filter<T>& filter, const Taps<T>& x, const LabelledTaps<T>* labelled, int64_t count,
                              T* y, int64_t stride) {
    if (labelled) return convolve<T, 0, Silu>(filter, *labelled, count, y, stride);
    with_taps(filter.W, [&]<int Known>() { convolve<T, Known, Silu>(filter, x, count, y, stride); });
}

// The division of the work. A unit is a panel of channels for a chunk of the steps of a sequence; it processes one tile
// of steps after another, block by block. None of this depends on the number of threads.
template <class T> struct Division {
    static constexpr int kPanel = 32; // vectors of channels
    bool rows;
    int64_t tile, chunk, chunks, block, panel, panels, units;

    // Whether a signal that is contiguous in time is processed in rows: not if these would be short.
    static bool in_rows(const Signal& x, int64_t D, int64_t T_) {
        return x.time == 1 && T_ >= lanes<T> && (x.channel != 1 || D == 1);
    }
    Division(const ConvShape& s, bool in_rows) : rows(in_rows) {
        const int64_t time = s.sequences.T;
        tile = round_up(max_of(rows ? 2048 : 64, 4 * s.W), lanes<T>);
        chunk = s.sequences.starts ? round_up(max_of(time, 1), tile) : rows ? tile : 4 * tile;
        chunks = max_of(ceil_div(time, chunk), 1);
        block = rows ? 1 : lanes<T>;
        panel = rows ? lanes<T> : kPanel * lanes<T>;
        panels = ceil_div(s.D, panel);
        units = s.sequences.count * chunks * panels;
    }
    int64_t blocks() const { return panel / block; }
    int64_t tap() const { return rows ? 1 : lanes<T>; }
    // Numbers in a block of this many steps, with space for one more vector
    int64_t numbers(int64_t steps) const { return rows ? round_up(steps, lanes<T>) + 2 * lanes<T> : steps * lanes<T>; }
    // Vectors in a block of this many steps
    int64_t vectors(int64_t steps) const { return rows ? ceil_div(steps, lanes<T>) : steps; }
};

template <class T> struct ConvUnit {
    Sequence sequence;
    int64_t chunk, first_channel, channels, from, to; // steps [from, to) up to the end of the sequence

    ConvUnit(const ConvShape& s, const Division<T>& d, int64_t index)
        : sequence(FASTITER_LEVEL::sequence(s.sequences, index / (d.chunks * d.panels))),
          chunk(index / d.panels % d.chunks) {
        first_channel = index % d.panels * d.panel;
        channels = min_of(d.panel, s.D - first_channel);
        from = chunk * d.chunk;
        to = min_of(from + d.chunk, sequence.steps);
    }
    int64_t padded(const Division<T>& d) const { return min_of(from + d.chunk, sequence.padded); }
};

// A block of channels, at most a vector
struct Block {
    int64_t channel, channels;
};

// The common part of the passes: filters, and blocks of signals
template <class T> class ConvPass {
protected:
    static constexpr int L = lanes<T>;
    static constexpr int64_t kZeros = 64;

    ConvPass(const CausalConv<T>& p, const Division<T>& division) : p_(p), s_(p.shape), d_(division) {}

    // Calls f(block, index) for the blocks of a unit.
    template <class F> void each_block(const ConvUnit<T>& unit, F f) const {
        for (int64_t c = 0; c < unit.channels; c += d_.block)
            f(Block{unit.first_channel + c, min_of(d_.block, unit.channels - c)}, c / d_.block);
    }
    // The same in vectors of channels, for data that is in lanes in both layouts
    template <class F> static void each_vector(const ConvUnit<T>& unit, F f) {
        for (int64_t c = 0; c < unit.channels; c += L) f(Block{unit.first_channel + c, min_of(L, unit.channels - c)});
    }

    int64_t filter_numbers() const { return (s_.W + 1) * L; }

    // The filter of a block in lanes
    Filter<T> lane_filter(const Block& b, T* vectors) const {
        read_tile(states_of(p_.weight, 0, s_.W), {0, b.channel, b.channels, 0, s_.W}, vectors);
        store(vectors + s_.W * L, p_.bias ? load_up_to(p_.bias + b.channel, b.channels) : vec<T>{});
        return {vectors, s_.W};
    }
    Filter<T> filter(const Block& b, T* vectors) const {
        if (!d_.rows) return lane_filter(b, vectors);
        for (int64_t j = 0; j < s_.W; ++j) store(vectors + j * L, broadcast(p_.weight[b.channel * s_.W + j]));
        store(vectors + s_.W * L, broadcast(p_.bias ? p_.bias[b.channel] : T(0)));
        return {vectors, s_.W};
    }
    // The same with the taps reversed and without a bias, for the gradient of the input
    Filter<T> reversed(const Filter<T>& f, T* vectors) const {
        for (int64_t j = 0; j < s_.W; ++j) store(vectors + j * L, f[s_.W - 1 - j]);
        store(vectors + s_.W * L, vec<T>{});
        return {vectors, s_.W};
    }

    // Reads steps [from, from + count) of a sequence in lanes.
    static void read_lanes(const Signal& x, const Sequence& q, const Block& b, int64_t from, int64_t count, T* to) {
        read_tile(x, {q.row, b.channel, b.channels, q.start + from, count}, to);
    }
    static void write_lanes(const Signal& x, const Sequence& q, const Block& b, int64_t from, int64_t count,
                            const T* y) {
        write_tile(x, {q.row, b.channel, b.channels, q.start + from, count}, y);
    }
    // The same in the layout of the pass; rows are followed by a vector of zeros.
    void read(const Signal& x, const Sequence& q, const Block& b, int64_t from, int64_t count, T* to) const {
        if (!d_.rows) return read_lanes(x, q, b, from, count, to);
        with_storage<T>(x, [&]<class S>(const S* data) {
            data += q.row * x.row + b.channel * x.channel + q.start + from;
            for (int64_t t = 0; t < count; t += L) store(to + t, load_up_to(data + t, count - t));
        });
        store(to + count, vec<T>{});
    }
    void write(const Signal& x, const Sequence& q, const Block& b, int64_t from, int64_t count, const T* y) const {
        if (!d_.rows) return write_lanes(x, q, b, from, count, y);
        with_storage<T>(x, [&]<class S>(S* data) {
            data += q.row * x.row + b.channel * x.channel + q.start + from;
            for (int64_t t = 0; t < count; t += L) store_up_to(data + t, load(y + t), count - t);
        });
    }

    // Reads inputs [from, from + count); those before the start are the first states or 0. Rows: the layout of the
    // block
    template <bool Rows> void read_inputs(const Sequence& q, const Block& b, int64_t from, int64_t count, T* to) const {
        constexpr int64_t line = Rows ? 1 : L;
        const int64_t before = from < 0 ? min_of(-from, count) : 0;
        if (before) {
            if (p_.first.data)
                read_tile(p_.first, {q.index, b.channel, b.channels, from + s_.W - 1, before}, to, line);
            else
                fill_zero(to, before * line);
        }
        if constexpr (Rows)
            read(p_.x, q, b, from + before, count - before, to + before);
        else
            read_lanes(p_.x, q, b, from + before, count - before, to + before * L);
    }
    void read_inputs(const Sequence& q, const Block& b, int64_t from, int64_t count, T* to) const {
        d_.rows ? read_inputs<true>(q, b, from, count, to) : read_inputs<false>(q, b, from, count, to);
    }

    // Whether the loops of conv_direct.hpp can process signals x and y (y may be missing)
    bool in_place(const Signal& x, const Signal& y) const {
        const bool fits = s_.W >= 2 && s_.W <= 4 && s_.W - 1 <= L && !s_.seq_idx;
        return fits && (d_.rows || (x.channel == 1 && (y.channel == 1 || !y.data)));
    }
    // Calls f.template operator()<S, W, Silu>() for these loops.
    template <class F> void with_loops(F f) const {
        with_storage<T>(p_.x, [&]<class S>(S*) {
            with_taps(this->s_.W, [&]<int W>() {
                if constexpr (W > 0 && W - 1 <= lanes<T>)
                    this->s_.silu ? f.template operator()<S, W, true>() : f.template operator()<S, W, false>();
            });
        });
    }
    // The address of a signal's number at a channel and step of a sequence
    template <class S> static S* at(const Signal& x, const Sequence& q, int64_t channel, int64_t step) {
        return static_cast<S*>(x.data) + q.row * x.row + channel * x.channel + (q.start + step) * x.time;
    }
    // The channels of a unit at a step; steps before the first one are in `start`, as written by steps_before.
    template <class S> const S* row(const ConvUnit<T>& unit, int64_t step, const S* start) const {
        return step < 0 ? start + (step + s_.W - 1) * d_.panel
                        : at<const S>(p_.x, unit.sequence, unit.first_channel, step);
    }
    // The vector of inputs before step `from` of a row
    void inputs_before(const Sequence& q, const Block& b, int64_t from, T* to) const {
        if (from) return read(p_.x, q, b, from - L, L, to);
        fill_zero(to, L);
        const int64_t count = s_.W - 1;
        if (p_.first.data) read_tile(p_.first, {q.index, b.channel, 1, 0, count}, to + L - count, 1);
    }
    // The inputs of the W - 1 steps before the first one, (W - 1, panel), in the storage type of x; `tile`: W - 1
    // vectors, overwritten
    template <class S> void steps_before(const ConvUnit<T>& unit, T* tile, S* to) const {
        const int64_t count = s_.W - 1;
        each_vector(unit, [&](const Block& b) {
            read_inputs<false>(unit.sequence, b, -count, count, tile);
            for (int64_t k = 0; k < count; ++k)
                store_up_to(to + k * d_.panel + b.channel - unit.first_channel, load(tile + k * L), b.channels);
        });
    }

    // Writes 0 to the steps of a unit past the end of the sequence; `zeros`: kZeros vectors, overwritten
    void write_zeros(const Signal& x, const ConvUnit<T>& unit, T* zeros) const {
        const int64_t to = unit.padded(d_), start = max_of(unit.from, unit.sequence.steps);
        if (start >= to || !x.data) return;
        fill_zero(zeros, kZeros * L);
        each_vector(unit, [&](const Block& b) {
            for (int64_t t = start; t < to; t += kZeros)
                write_lanes(x, unit.sequence, b, t, min_of(kZeros, to - t), zeros);
        });
    }

    // The sequence labels of steps [from, from + count), -1 outside the row; returns whether they differ or are
    // negative.
    bool read_labels(const Sequence& q, int64_t from, int64_t count, label<T>* to) const {
        const int32_t* row = s_.seq_idx + q.row * s_.sequences.T;
        bool mixed = false;
        const int32_t common = row[max_of(from, 0)];
        for (int64_t i = 0; i < count; ++i) {
            const int64_t t = from + i;
            const bool inside = t >= 0 && t < q.steps;
            to[i] = inside ? row[t] : -1;
            mixed |= inside && (row[t] != common || row[t] < 0);
        }
        for (int64_t i = count; i < count + L; ++i) to[i] = -1;
        return mixed;
    }

    const CausalConv<T>& p_;
    const ConvShape& s_;
    const Division<T> d_;
};

} // namespace fastiter::ssm::FASTITER_LEVEL
