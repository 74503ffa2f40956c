// The causal convolution, backward. The sums pre are recomputed; then, with dpre = d_out act'(pre),
//     dweight[j] = sum of dpre[t] x[t - W + 1 + j],   dbias = sum of dpre,   dx[t] = sum of weight[j] dpre[t + W - 1 - j].
// The gradients of the weights are summed per sequence and chunk of steps, and these sums are added in order.
#include "ssm/cpu/conv/direct.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

// dpre = d_out act'(pre), in place, for vectors i at dpre + i * lanes
template <class T, int Known, bool Silu, class In>
FASTITER_NOINLINE void differentiate(Filter<T> filter, In x, int64_t count, T* dpre) {
    for (int64_t i = 0; i < count; ++i) {
        vec<T> d = load(dpre + i * lanes<T>);
        if constexpr (Silu) {
            const vec<T> pre = tap_sum<T, Known>(filter, x, i), s = sigmoid<T>(pre);
            d *= s * fma(pre, broadcast(T(1)) - s, broadcast(T(1)));
        }
        store(dpre + i * lanes<T>, x.own(i, d));
    }
}

template <class T>
void differentiate(const Filter<T>& filter, const Taps<T>& x, const LabelledTaps<T>* labelled, int64_t count, T* dpre,
                   bool silu) {
    if (labelled)
        return silu ? differentiate<T, 0, true>(filter, *labelled, count, dpre)
                    : differentiate<T, 0, false>(filter, *labelled, count, dpre);
    if (!silu) return;
    with_taps(filter.W, [&]<int Known>() { differentiate<T, Known, true>(filter, x, count, dpre); });
}

// sums[j] += dpre[i] x[i, first + j] for `Count` taps, and sums[Count] += dpre[i]
template <class T, int Count, class In>
FASTITER_NOINLINE void add_products(In x, int64_t first, const T* dpre, int64_t count, T* sums) {
    vec<T> sum[Count + 1];
#pragma GCC unroll 5
    for (int j = 0; j <= Count; ++j) sum[j] = load(sums + j * lanes<T>);
    for (int64_t i = 0; i < count; ++i) {
        const vec<T> d = load(dpre + i * lanes<T>);
#pragma GCC unroll 4
        for (int j = 0; j < Count; ++j) sum[j] = fma(d, x(i, first + j), sum[j]);
        sum[Count] += d;
    }
#pragma GCC unroll 5
    for (int j = 0; j <= Count; ++j) store(sums + j * lanes<T>, sum[j]);
}

// The same for all W taps, in groups from the first tap on; the last group also sums dpre.
template <class T, class In> void add_all_products(In x, int64_t W, const T* dpre, int64_t count, T* sums) {
    int64_t j = 0;
    for (; j + 4 < W; j += 4) {
        const vec<T> next = load(sums + (j + 4) * lanes<T>);
        add_products<T, 4>(x, j, dpre, count, sums + j * lanes<T>);
        store(sums + (j + 4) * lanes<T>, next); // for the next tap
    }
    (W - j == 4   ? add_products<T, 4, In>
     : W - j == 3 ? add_products<T, 3, In>
     : W - j == 2 ? add_products<T, 2, In>
                  : add_products<T, 1, In>)(x, j, dpre, count, sums + j * lanes<T>);
}

template <class T> Division<T> division(const CausalConvGradient<T>& p) {
    const int64_t D = p.forward.shape.D, time = p.forward.shape.sequences.T;
    bool rows = true;
    for (const Signal* x : {&p.forward.x, &p.d_out, &p.dx})
        rows = rows && (!x->data || Division<T>::in_rows(*x, D, time));
    return {p.forward.shape, rows};
}

// The sums for every sequence and chunk; if there is only one, the results themselves
template <class T> struct Parts {
    int64_t count = 0;
    T *dweight = nullptr, *dbias = nullptr;

    Parts(const CausalConvGradient<T>& p, const Division<T>& d, Arena& memory)
        : count(p.forward.shape.sequences.count * d.chunks), dweight(p.dweight), dbias(p.dbias) {
        const ConvShape& s = p.forward.shape;
        if (count > 1 && p.dweight) dweight = memory.take<T>(count * s.D * s.W);
        if (count > 1 && p.dbias) dbias = memory.take<T>(count * s.D);
    }
    void add(const CausalConvGradient<T>& p, Team team) const {
        if (count == 1) return;
        const ConvShape& s = p.forward.shape;
        wait(team.barriers[0], team.size);
        add_parts(dweight, count, s.D * s.W, p.dweight, team);
        add_parts(dbias, count, s.D, p.dbias, team);
    }
};

template <class T> class Backward : ConvPass<T> {
    using Base = ConvPass<T>;
    using Base::d_, Base::L, Base::p_, Base::s_;

public:
    Backward(const CausalConvGradient<T>& p, const Division<T>& division, const Parts<T>& parts, void* memory)
        : Base(p.forward, division), g_(p), parts_(parts) {
        Arena cut(memory);
        const int64_t before = s_.W - 1, steps = d_.tile + before;
        filters_ = cut.take<T>(d_.blocks() * Base::filter_numbers());
        reversed_ = cut.take<T>(Base::filter_numbers());
        sums_ = cut.take<T>(d_.blocks() * Base::filter_numbers());
        x_ = cut.take<T>(max_of(d_.numbers(before + steps), 2 * before * L));
        dpre_ = cut.take<T>(max_of(d_.numbers(steps + before), 2 * before * L));
        dx_ = cut.take<T>(max_of(d_.numbers(d_.tile), max_of(Base::kZeros, before) * L));
        dlast_ = cut.take<T>(max_of(before, 1) * L);
        labels_ = s_.seq_idx ? cut.take<label<T>>(before + steps + L) : nullptr;
        before_ = cut.take<T>(max_of(2 * L, before * d_.panel));
        dpre_before_ = cut.take<T>(before * d_.panel);
        unused_ = cut.take<T>(max_of(d_.blocks() * Base::filter_numbers(), d_.panel));
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }
    int64_t units() const { return d_.units; }

    void run(int64_t index) {
        const ConvUnit<T> unit(s_, d_, index);
        Base::each_block(unit,
                         [&](const Block& b, int64_t i) { Base::filter(b, filters_ + i * Base::filter_numbers()); });
        fill_zero(sums_, d_.blocks() * Base::filter_numbers());
        for (int64_t from = run_in_place(unit); from < unit.to; from += d_.tile)
            run_tile(unit, from, min_of(d_.tile, unit.to - from));
        Base::write_zeros(g_.dx, unit, dx_);
        if (unit.chunk == 0 && g_.dfirst.data)
            Base::each_vector(unit, [&](const Block& b) { write_first(unit.sequence, b); });
        write_sums(unit);
    }

private:
    void run_tile(const ConvUnit<T>& unit, int64_t from, int64_t steps) {
        const int64_t before = s_.W - 1;
        const Sequence& q = unit.sequence;
        // steps of the tile and the following steps that its inputs reach
        const int64_t count = g_.dx.data ? min_of(steps + before, q.steps - from) : steps;
        const bool mixed = s_.seq_idx && Base::read_labels(q, from - before, before + steps + before, labels_);
        Base::each_block(unit, [&](const Block& b, int64_t i) {
            const Filter<T> filter = {filters_ + i * Base::filter_numbers(), s_.W};
            Base::read_inputs(q, b, from - before, before + count, x_);
            read_dpre(q, b, from, count, filter, mixed);
            if (g_.dweight || g_.dbias) add_to_sums(steps, mixed, sums_ + i * Base::filter_numbers());
            if (g_.dx.data) write_dx(q, b, from, steps, filter, mixed);
        });
    }

    // Processes steps in place from the unit's first step on; returns the first step that it leaves to the tiles. The
    // tiles add the gradient of the last inputs, and in lanes they process the last steps of all.
    int64_t run_in_place(const ConvUnit<T>& unit) {
        const Sequence& q = unit.sequence;
        if (!g_.d_out.data || !Base::in_place(p_.x, g_.d_out) || !Base::in_place(p_.x, g_.dx)) return unit.from;
        const int64_t step = d_.rows ? L : kTogether, behind = d_.rows ? 0 : kTogether;
        const int64_t end = min_of(unit.to, q.steps - (g_.dlast.data ? max_of(behind, s_.W - 1) : behind));
        if (end - unit.from < step) return unit.from;
        const int64_t to = unit.from + (end - unit.from) / step * step;
        Base::with_loops([&]<class S, int W, bool Silu>() {
            this->d_.rows ? run_rows<S, W, Silu>(unit, to) : run_steps<S, W, Silu>(unit, to);
        });
        return to;
    }

    template <class S, int W, bool Silu> void run_rows(const ConvUnit<T>& unit, int64_t to) {
        const Sequence& q = unit.sequence;
        const int64_t behind = min_of(W - 1, q.steps - to);
        Base::each_block(unit, [&](const Block& b, int64_t i) {
            const Filter<T> filter = {filters_ + i * Base::filter_numbers(), s_.W};
            if (behind) Base::read_inputs(q, b, to - (W - 1), W - 1 + behind, x_);
            read_dpre(q, b, to, behind, filter, false);
            Base::inputs_before(q, b, unit.from, before_);
            differentiate_row<S, W, Silu>({filter.vectors, before_, dpre_,
                                           Base::template at<const S>(p_.x, q, b.channel, unit.from),
                                           Base::template at<const S>(g_.d_out, q, b.channel, unit.from),
                                           g_.dx.data ? Base::template at<S>(g_.dx, q, b.channel, unit.from) : nullptr,
                                           (to - unit.from) / L, sums_ + i * Base::filter_numbers()});
        });
    }

    // Processes groups of steps. The gradients of a group's inputs are complete W - 1 steps later, so that one more
    // group is read after the last: its sums, and the gradients of inputs outside [from, to), are discarded.
    template <class S, int W, bool Silu> void run_steps(const ConvUnit<T>& unit, int64_t to) {
        const Sequence& q = unit.sequence;
        S* start = reinterpret_cast<S*>(before_);
        if (!unit.from) Base::steps_before(unit, x_, start);
        fill_zero(dpre_before_, (W - 1) * d_.panel);
        StepsGradient<S, W, kTogether> p;
        p.filters = filters_;
        p.dpre = dpre_before_;
        p.line = d_.panel;
        p.channels = unit.channels;
        for (int64_t t = unit.from; t <= to; t += kTogether) {
            for (int64_t k = 0; k < W - 1 + kTogether; ++k) p.rows[k] = Base::row(unit, t + k - (W - 1), start);
            for (int64_t r = 0; r < kTogether; ++r) {
                const int64_t step = t + r - (W - 1);
                p.d_out[r] = Base::template at<const S>(g_.d_out, q, unit.first_channel, t + r);
                const bool is_stored = g_.dx.data && step >= unit.from && step < to;
                p.dx[r] = is_stored ? Base::template at<S>(g_.dx, q, unit.first_channel, step)
                                    : reinterpret_cast<S*>(unused_);
            }
            p.sums = t < to ? sums_ : unused_;
            differentiate_steps<S, W, Silu, kTogether>(p);
        }
    }

    LabelledTaps<T> labelled(const T* data, int64_t from, int64_t self) const {
        return {{data, d_.tap()}, labels_ + from, self};
    }

    // dpre of steps [from, from + count), and zeros up to the last step that the inputs of a tile reach
    void read_dpre(const Sequence& q, const Block& b, int64_t from, int64_t count, const Filter<T>& filter,
                   bool mixed) {
        const int64_t line = d_.tap();
        if (g_.d_out.data)
            Base::read(g_.d_out, q, b, from, count, dpre_);
        else
            fill_zero(dpre_, count * line);
        const LabelledTaps<T> x = labelled(x_, 0, s_.W - 1);
        differentiate<T>(filter, x.taps, mixed ? &x : nullptr, d_.vectors(count), dpre_, s_.silu);
        fill_zero(dpre_ + count * line, (s_.W - 1) * line + (d_.rows ? L : 0));
    }

    void add_to_sums(int64_t steps, bool mixed, T* sums) {
        const LabelledTaps<T> x = labelled(x_, 0, s_.W - 1);
        const int64_t whole = d_.rows ? steps / L : steps;
        mixed ? add_all_products(x, s_.W, dpre_, whole, sums) : add_all_products(x.taps, s_.W, dpre_, whole, sums);
        if (const int64_t rest = d_.rows ? steps % L : 0) add_rest(whole, rest, mixed, sums);
    }
    // The last vector of a row: inputs past the end, which may be infinite, are excluded.
    void add_rest(int64_t vector, int64_t steps, bool mixed, T* sums) {
        const LabelledTaps<T> x = labelled(x_, 0, s_.W - 1);
        const vec<T> d = load_first(dpre_ + vector * L, int(steps));
        for (int64_t j = 0; j < s_.W; ++j) {
            alignas(64) T inputs[L];
            store(inputs, mixed ? x(vector, j) : x.taps(vector, j));
            store(sums + j * L, fma(d, load_first(inputs, int(steps)), load(sums + j * L)));
        }
        store(sums + s_.W * L, load(sums + s_.W * L) + d);
    }

    void write_dx(const Sequence& q, const Block& b, int64_t from, int64_t steps, const Filter<T>& filter, bool mixed) {
        const Filter<T> back = Base::reversed(filter, reversed_);
        const LabelledTaps<T> d = labelled(dpre_, s_.W - 1, 0);
        convolve<T, false>(back, d.taps, mixed ? &d : nullptr, d_.vectors(steps), dx_, L);
        if (g_.dlast.data) add_last(q, b, from, steps, dx_, d_.tap());
        Base::write(g_.dx, q, b, from, steps, dx_);
    }

    // Adds dlast to the part of the last W - 1 inputs in steps [from, from + steps), at dx + (t - from) * line.
    void add_last(const Sequence& q, const Block& b, int64_t from, int64_t steps, T* dx, int64_t line) {
        const int64_t last = q.steps - (s_.W - 1), start = max_of(from, last), count = from + steps - start;
        if (count <= 0) return;
        T* to = dx + (start - from) * line;
        read_tile(g_.dlast, {q.index, b.channel, b.channels, start - last, count}, dlast_, line);
        for (int64_t i = 0; i < count * line; i += L) {
            const int64_t left = count * line - i;
            store_up_to(to + i, load_up_to(to + i, left) + load_up_to(dlast_ + i, left), left);
        }
    }

    // The gradient of the inputs before the first step, which the first W - 1 steps reach; in lanes
    void write_first(const Sequence& q, const Block& b) {
        const int64_t before = s_.W - 1, count = min_of(before, q.steps);
        fill_zero(dpre_, 2 * before * L);
        const Filter<T> filter = Base::lane_filter(b, filters_);
        if (g_.d_out.data && count) {
            Base::template read_inputs<false>(q, b, -before, before + count, x_);
            Base::read_lanes(g_.d_out, q, b, 0, count, dpre_ + before * L);
            differentiate<T>(filter, {x_, L}, nullptr, count, dpre_ + before * L, s_.silu);
        }
        convolve<T, false>(Base::reversed(filter, reversed_), {dpre_, L}, nullptr, before, dx_, L);
        if (g_.dlast.data) add_last(q, b, -before, before, dx_, L);
        write_tile(g_.dfirst, {q.index, b.channel, b.channels, 0, before}, dx_);
    }

    void write_sums(const ConvUnit<T>& unit) {
        const int64_t part = unit.sequence.index * d_.chunks + unit.chunk;
        T* dweight = parts_.dweight ? parts_.dweight + part * s_.D * s_.W : nullptr;
        T* dbias = parts_.dbias ? parts_.dbias + part * s_.D : nullptr;
        Base::each_block(unit, [&](const Block& b, int64_t i) {
            const T* sums = sums_ + i * Base::filter_numbers();
            if (d_.rows) {
                if (dweight) add_channels(sums, s_.W, dweight + b.channel * s_.W);
                if (dbias) add_channels(sums + s_.W * L, 1, dbias + b.channel);
            } else {
                if (dweight) write_tile(states_of(dweight, 0, s_.W), {0, b.channel, b.channels, 0, s_.W}, sums);
                if (dbias) store_up_to(dbias + b.channel, load(sums + s_.W * L), b.channels);
            }
        });
    }

    const CausalConvGradient<T>& g_;
    const Parts<T> parts_;
    T *filters_ = nullptr, *reversed_ = nullptr, *sums_ = nullptr, *x_ = nullptr, *dpre_ = nullptr, *dx_ = nullptr,
      *dlast_ = nullptr, *before_ = nullptr, *dpre_before_ = nullptr, *unused_ = nullptr;
    label<T>* labels_ = nullptr;
    size_t bytes_ = 0;
};

} // namespace

template <class T> int64_t conv_gradient_units(const CausalConvGradient<T>& p) { return division(p).units; }

template <class T> size_t conv_gradient_workspace(const CausalConvGradient<T>& p, int threads) {
    Arena shared(nullptr);
    const Division<T> d = division(p);
    const Parts<T> parts(p, d, shared);
    return shared.bytes() + size_t(threads) * Backward<T>(p, d, parts, nullptr).bytes();
}

template <class T> void conv_gradient(const CausalConvGradient<T>& p, Team team) {
    Arena shared(p.workspace);
    const Division<T> d = division(p);
    const Parts<T> parts(p, d, shared);
    char* own = static_cast<char*>(p.workspace) + shared.bytes();
    Backward<T> kernel(p, d, parts, own + size_t(team.id) * Backward<T>(p, d, parts, nullptr).bytes());
    for (int64_t u = d.units * team.id / team.size; u < d.units * (team.id + 1) / team.size; ++u) {
        if (has_to_stop(team, 2 * d.chunk * d.panel * p.forward.shape.W)) return;
        kernel.run(u);
    }
    parts.add(p, team);
}

template int64_t conv_gradient_units(const CausalConvGradient<float>&);
template int64_t conv_gradient_units(const CausalConvGradient<double>&);
template size_t conv_gradient_workspace(const CausalConvGradient<float>&, int);
template size_t conv_gradient_workspace(const CausalConvGradient<double>&, int);
template void conv_gradient(const CausalConvGradient<float>&, Team);
template void conv_gradient(const CausalConvGradient<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
