// Steps of a causal convolution with a state that holds the inputs before them: vectors of channels.
#include "ssm/cpu/conv/conv.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

template <class T> class Update {
    static constexpr int L = lanes<T>;

public:
    Update(const ConvUpdate<T>& p, void* memory) : p_(p) {
        Arena cut(memory);
        filter_ = cut.take<T>((p.W + 1) * L);
        inputs_ = cut.take<T>((max_of(p.N, p.W - 1) + p.L) * L);
        y_ = cut.take<T>(p.L * L);
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }

    // All rows of channels [channel, channel + L)
    void run(int64_t channel) {
        const int64_t count = min_of(L, p_.D - channel);
        read_tile(p_.weight, {0, channel, count, 0, p_.W}, filter_);
        store(filter_ + p_.W * L, vec<T>{});
        if (p_.bias.data) read_tile(p_.bias, {0, channel, count, 0, 1}, filter_ + p_.W * L);
        if (is_plain(count)) return with_storage<T>(p_.x, [&]<class S>(S*) { run_plain<S>(channel); });
        for (int64_t b = 0; b < p_.B; ++b) {
            const Place out = {b, channel, count, 0, p_.L};
            const int64_t row = p_.rows ? p_.rows[b] : b;
            if (row < 0)
                fill_zero(y_, p_.L * L);
            else if (p_.positions)
                advance_ring(b, row, out);
            else
                advance(row, out);
            write_tile(p_.out, out, y_);
        }
    }

private:
    // Whether this is a step of four taps on whole vectors, with four contiguous numbers of state per channel, the
    // common case in models
    bool is_plain(int64_t channels) const {
        const Signal& s = p_.state;
        const bool state = p_.N == 4 && s.channel == 4 && s.time == 1 && s.storage == p_.x.storage;
        return state && p_.W == 4 && p_.L == 1 && !p_.positions && channels == L && p_.x.channel == 1 &&
               p_.out.channel == 1;
    }
    // The same as below in registers: 5.4 us instead of 14.5 for 8 rows of 1024 channels
    template <class S> void run_plain(int64_t channel) {
        const Filter<T> filter = {filter_, 4};
        for (int64_t b = 0; b < p_.B; ++b) {
            S* out = static_cast<S*>(p_.out.data) + b * p_.out.row + channel;
            const int64_t row = p_.rows ? p_.rows[b] : b;
            if (row < 0) {
                store(out, vec<T>{});
                continue;
            }
            S* state = static_cast<S*>(p_.state.data) + row * p_.state.row + channel * 4;
            vec<T> v[5] = {load(state), load(state + L), load(state + 2 * L), load(state + 3 * L)};
            separate_4<T>(v);
            v[4] = load(static_cast<const S*>(p_.x.data) + b * p_.x.row + channel);
            vec<T> sum = filter[4];
            for (int j = 0; j < 4; ++j) sum = fma(filter[j], v[1 + j], sum);
            store(out, p_.silu ? sum * sigmoid<T>(sum) : sum);
            join_4<T>(v + 1);
            for (int i = 0; i < 4; ++i) store(state + i * L, v[1 + i]);
        }
    }

    // The state followed by the steps is the input; its end is the next state.
    void advance(int64_t row, const Place& x) {
        const Place state = {row, x.channel, x.channels, 0, p_.N};
        read_tile(p_.state, state, inputs_);
        read_tile(p_.x, x, inputs_ + p_.N * L);
        compute(inputs_ + (p_.N - (p_.W - 1)) * L);
        write_tile(p_.state, state, inputs_ + p_.L * L);
    }

    void advance_ring(int64_t b, int64_t row, const Place& x) {
        const int64_t before = p_.W - 1;
        auto place = [&](int64_t step) { // address of a step, where 0 is the first step of x
            const int64_t at = p_.N ? (p_.positions[b] % p_.N + step % p_.N + 2 * p_.N) % p_.N : 0;
            return Place{row, x.channel, x.channels, at, 1};
        };
        for (int64_t i = 0; i < before; ++i) read_tile(p_.state, place(i - before), inputs_ + i * L);
        read_tile(p_.x, x, inputs_ + before * L);
        compute(inputs_);
        for (int64_t t = max_of(0, p_.L - p_.N); t < p_.L; ++t)
            write_tile(p_.state, place(t), inputs_ + (before + t) * L);
    }

    void compute(const T* inputs) {
        const Filter<T> filter = {filter_, p_.W};
        if (p_.silu)
            convolve<T, true>(filter, {inputs, L}, nullptr, p_.L, y_, L);
        else
            convolve<T, false>(filter, {inputs, L}, nullptr, p_.L, y_, L);
    }

    const ConvUpdate<T>& p_;
    T *filter_ = nullptr, *inputs_ = nullptr, *y_ = nullptr;
    size_t bytes_ = 0;
};

} // namespace

template <class T> size_t conv_update_workspace(const ConvUpdate<T>& p, int threads) {
    return size_t(threads) * Update<T>(p, nullptr).bytes();
}

template <class T> void conv_update(const ConvUpdate<T>& p, Team team) {
    const size_t own = Update<T>(p, nullptr).bytes();
    Update<T> kernel(p, static_cast<char*>(p.workspace) + size_t(team.id) * own);
    const int64_t blocks = ceil_div(p.D, lanes<T>);
    for (int64_t u = blocks * team.id / team.size; u < blocks * (team.id + 1) / team.size; ++u)
        kernel.run(u * lanes<T>);
}

template size_t conv_update_workspace(const ConvUpdate<float>&, int);
template size_t conv_update_workspace(const ConvUpdate<double>&, int);
template void conv_update(const ConvUpdate<float>&, Team);
template void conv_update(const ConvUpdate<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
