// The causal convolution, forward.
#include "ssm/cpu/conv/direct.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

template <class T> int64_t conv_gradient_units(const CausalConvGradient<T>&);
template <class T> size_t conv_gradient_workspace(const CausalConvGradient<T>&, int threads);
template <class T> void conv_gradient(const CausalConvGradient<T>&, Team);
template <class T> size_t conv_update_workspace(const ConvUpdate<T>&, int threads);
template <class T> void conv_update(const ConvUpdate<T>&, Team);

namespace {

template <class T> Division<T> division(const CausalConv<T>& p) {
    const int64_t D = p.shape.D, time = p.shape.sequences.T;
    return {p.shape, Division<T>::in_rows(p.x, D, time) && Division<T>::in_rows(p.out, D, time)};
}

template <class T> class Forward : ConvPass<T> {
    using Base = ConvPass<T>;
    using Base::d_, Base::L, Base::p_, Base::s_;

public:
    Forward(const CausalConv<T>& p, void* memory) : Base(p, division(p)) {
        Arena cut(memory);
        const int64_t before = s_.W - 1;
        filters_ = cut.take<T>(d_.blocks() * Base::filter_numbers());
        x_ = cut.take<T>(max_of(d_.numbers(before + d_.tile), before * L));
        y_ = cut.take<T>(max_of(d_.numbers(d_.tile), Base::kZeros * L));
        labels_ = s_.seq_idx ? cut.take<label<T>>(before + d_.tile + L) : nullptr;
        before_ = cut.take<T>(max_of(2 * L, before * d_.panel));
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }
    int64_t units() const { return d_.units; }
    int64_t numbers() const { return d_.chunk * d_.panel * s_.W; } // numbers per unit, with each tap

    void run(int64_t index) {
        const ConvUnit<T> unit(s_, d_, index);
        if (unit.from < unit.to)
            Base::each_block(
                unit, [&](const Block& b, int64_t i) { Base::filter(b, filters_ + i * Base::filter_numbers()); });
        if (Base::in_place(p_.x, p_.out))
            run_in_place(unit);
        else
            for (int64_t from = unit.from; from < unit.to; from += d_.tile)
                run_tile(unit, from, min_of(d_.tile, unit.to - from));
        Base::write_zeros(p_.out, unit, y_);
        if (unit.chunk == 0 && p_.last.data)
            Base::each_vector(unit, [&](const Block& b) { keep_last(unit.sequence, b); });
    }

private:
    void run_tile(const ConvUnit<T>& unit, int64_t from, int64_t steps) {
        const int64_t before = s_.W - 1;
        const LabelledTaps<T> labelled = {{x_, d_.tap()}, labels_, before};
        const bool mixed = s_.seq_idx && Base::read_labels(unit.sequence, from - before, before + steps, labels_);
        Base::each_block(unit, [&](const Block& b, int64_t i) {
            Base::read_inputs(unit.sequence, b, from - before, before + steps, x_);
            const Filter<T> filter = {filters_ + i * Base::filter_numbers(), s_.W};
            const LabelledTaps<T>* labels = mixed ? &labelled : nullptr;
            if (s_.silu)
                convolve<T, true>(filter, {x_, d_.tap()}, labels, d_.vectors(steps), y_, L);
            else
                convolve<T, false>(filter, {x_, d_.tap()}, labels, d_.vectors(steps), y_, L);
            Base::write(p_.out, unit.sequence, b, from, steps, y_);
        });
    }

    void run_in_place(const ConvUnit<T>& unit) {
        if (unit.from >= unit.to) return;
        Base::with_loops([&]<class S, int W, bool Silu>() {
            this->d_.rows ? run_rows<S, W, Silu>(unit) : run_steps<S, W, Silu>(unit);
        });
    }

    template <class S, int W, bool Silu> void run_rows(const ConvUnit<T>& unit) {
        const Sequence& q = unit.sequence;
        Base::each_block(unit, [&](const Block& b, int64_t i) {
            Base::inputs_before(q, b, unit.from, before_);
            convolve_row<S, W, Silu>(filters_ + i * Base::filter_numbers(), before_,
                                     Base::template at<const S>(p_.x, q, b.channel, unit.from), unit.to - unit.from,
                                     Base::template at<S>(p_.out, q, b.channel, unit.from));
        });
    }

    template <class S, int W, bool Silu> void run_steps(const ConvUnit<T>& unit) {
        const Sequence& q = unit.sequence;
        S* start = reinterpret_cast<S*>(before_);
        if (!unit.from) Base::steps_before(unit, x_, start);
        const S* rows[W - 1 + kTogether];
        for (int64_t t = unit.from; t < unit.to;) {
            const int64_t count = t + kTogether <= unit.to ? kTogether : 1;
            for (int64_t k = 0; k < W - 1 + count; ++k) rows[k] = Base::row(unit, t + k - (W - 1), start);
            S* out = Base::template at<S>(p_.out, q, unit.first_channel, t);
            (count == kTogether ? convolve_steps<S, W, Silu, kTogether>
                                : convolve_steps<S, W, Silu, 1>)(filters_, rows, out, p_.out.time, unit.channels);
            t += count;
        }
    }

    void keep_last(const Sequence& q, const Block& b) {
        const int64_t count = s_.W - 1;
        Base::template read_inputs<false>(q, b, q.steps - count, count, x_);
        write_tile(p_.last, {q.index, b.channel, b.channels, 0, count}, x_);
    }

    T *filters_ = nullptr, *x_ = nullptr, *y_ = nullptr, *before_ = nullptr;
    label<T>* labels_ = nullptr;
    size_t bytes_ = 0;
};

template <class T> int64_t units(const CausalConv<T>& p) { return Forward<T>(p, nullptr).units(); }

template <class T> size_t workspace(const CausalConv<T>& p, int threads) {
    return size_t(threads) * Forward<T>(p, nullptr).bytes();
}

template <class T> void forward(const CausalConv<T>& p, Team team) {
    const size_t own = Forward<T>(p, nullptr).bytes();
    Forward<T> kernel(p, static_cast<char*>(p.workspace) + size_t(team.id) * own);
    const int64_t units = kernel.units();
    for (int64_t u = units * team.id / team.size; u < units * (team.id + 1) / team.size; ++u) {
        if (has_to_stop(team, kernel.numbers())) return;
        kernel.run(u);
    }
}

template <class T>
constexpr ConvKernels<T> kernels_of = {
    units<T>,
    workspace<T>,
    forward<T>,
    conv_gradient_units<T>,
    conv_gradient_workspace<T>,
    conv_gradient<T>,
    conv_update_workspace<T>,
    conv_update<T>,
};

} // namespace

const CausalConvKernels conv_kernels = {kernels_of<float>, kernels_of<double>};

} // namespace fastiter::ssm::FASTITER_LEVEL
