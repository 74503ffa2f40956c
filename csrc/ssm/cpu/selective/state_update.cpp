// One step of a selective scan: vectors are along the N states of a channel, which are contiguous.
#include "ssm/cpu/selective/selective.hpp"
#include "ssm/cpu/sums.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

template <class T> class Update {
    static constexpr int W = lanes<T>;
    static constexpr int kTogether = 4, kAhead = 8; // vectors, and units of work, that are computed together

public:
    Update(const StateUpdate<T>& p, void* memory) : p_(p) {
        B_ = static_cast<T*>(memory);
        C_ = B_ + round_up(p.N, W);
    }
    static int64_t numbers(const StateUpdate<T>& p) { return 2 * round_up(p.N, W); }

    // Units of work [first, last), each a vector of channels of a head of a row. The step sizes of several units are
    // computed first, as the states depend on them.
    void run(int64_t first, int64_t last) {
        Block blocks[kAhead];
        for (Channels at = channels(first); first < last; first += kAhead) {
            const int64_t count = min_of(kAhead, last - first);
            for (int i = 0; i < kAhead; ++i) {
                static_cast<Channels&>(blocks[i]) = at;
                if (i + 1 < count) next(at); // repeats the last one
            }
            next(at);
            for (int i = 0; i < kAhead; i += kTogether) read_steps(blocks + i);
            for (int i = 0; i < count; ++i) run(blocks[i]);
        }
    }

private:
    // At most a vector of channels of a head of a row
    struct Channels {
        int64_t b, h, channel, count;
    };
    // The same with d log2 e (or the decay if A has one number for all N), d x, D x and z s(z)
    struct Block : Channels {
        alignas(64) T factors[W], inputs[W], skips[W], gates[W];
    };
    Channels channels(int64_t unit) const {
        const int64_t blocks = ceil_div(p_.P, W), channel = unit % blocks * W;
        return {unit / (p_.H * blocks), unit / blocks % p_.H, channel, min_of(W, p_.P - channel)};
    }
    void next(Channels& at) const {
        at.channel += W;
        if (at.channel >= p_.P) {
            at.channel = 0;
            ++at.h;
        }
        if (at.h == p_.H) {
            at.h = 0;
            ++at.b;
        }
        at.count = min_of(W, p_.P - at.channel);
    }
    // Reads the steps of kTogether blocks.
    void read_steps(Block* blocks) const {
        vec<T> raw[kTogether], gates[kTogether] = {};
        for (int i = 0; i < kTogether; ++i) {
            raw[i] = read(p_.dt, blocks[i]);
            if (p_.dt_bias.data) raw[i] += read(p_.dt_bias, blocks[i], false);
            if (p_.z.data) gates[i] = read(p_.z, blocks[i]);
        }
        const StepSizes<T, kTogether> step(raw, p_.softplus);
        if (p_.z.data) sigmoids<T, kTogether>(gates);
        for (int i = 0; i < kTogether; ++i) {
            Block& at = blocks[i];
            const vec<T> x = read(p_.x, at), d = step.d[i];
            store(at.factors, p_.A_state ? d * T(kLog2e) : exp<T>(rates(at) * d));
            store(at.inputs, d * x);
            if (p_.D.data) store(at.skips, read(p_.D, at, false) * x);
            if (p_.z.data) store(at.gates, read(p_.z, at) * gates[i]);
        }
    }
    // The rates of channels whose A has one number for all N
    vec<T> rates(const Channels& at) const {
        const T* A = p_.A + at.h * p_.A_head + at.channel * p_.A_channel;
        vec<T> y{};
        for (int64_t c = 0; c < at.count; ++c) y[c] = A[c * p_.A_channel];
        return y;
    }
    void run(const Block& at) {
        const int64_t row = p_.rows ? p_.rows[at.b] : at.b;
        if (row < 0) return write(p_.out, at, vec<T>{});
        if (at.b != b_ || at.h != h_) read_group(at.b, at.h);
        vec<T> y = advance(row, at);
        if (p_.D.data) y += load(at.skips);
        if (p_.z.data) y *= load(at.gates);
        write(p_.out, at, y);
    }

    // Advances the states of up to a vector of channels; returns the sums of C h.
    vec<T> advance(int64_t row, const Block& at) const {
        const T* A = p_.A + at.h * p_.A_head + at.channel * p_.A_channel;
        vec<T> sums[W];
        for (int64_t c = at.count; c < W; ++c) sums[c] = vec<T>{};
        with_storage<T>({p_.state, 0, 0, 0, p_.state_storage}, [&]<class S>(S* state) {
            state += row * p_.state_row + at.h * p_.state_head + at.channel * p_.state_channel;
            if (p_.A_state)
                advance_channels<S, false>(state, A, at.factors, at.inputs, sums, at.count);
            else
                advance_channels<S, true>(state, A, at.factors, at.inputs, sums, at.count);
        });
        return sums_of<T>(sums);
    }

    template <class S, bool OneDecay>
    FASTITER_NOINLINE void advance_channels(S* state, const T* A, const T* factors, const T* inputs, vec<T>* sums,
                                            int64_t count) const {
        const int64_t N = p_.N, of_A = p_.A_channel, of_state = p_.state_channel;
        int64_t c = 0;
        for (; N % W == 0 && c + kTogether <= count; c += kTogether)
            advance_some<S, OneDecay, kTogether>(state + c * of_state, A + c * of_A, factors + c, inputs + c, sums + c);
        for (; c < count; ++c)
            advance_some<S, OneDecay, 1>(state + c * of_state, A + c * of_A, factors + c, inputs + c, sums + c);
    }
    // With more than one channel, N is a whole number of vectors.
    template <class S, bool OneDecay, int Count>
    FASTITER_INLINE void advance_some(S* state, const T* A, const T* factors, const T* inputs, vec<T>* sums) const {
        const int64_t N = p_.N, of_A = p_.A_channel, of_state = p_.state_channel;
        vec<T> sum[Count] = {};
        for (int64_t n = 0; n < N; n += W) {
            const int64_t left = Count > 1 ? W : N - n;
            vec<T> a[Count];
            if constexpr (OneDecay) {
#pragma GCC unroll 4
                for (int i = 0; i < Count; ++i) a[i] = broadcast(factors[i]);
            } else {
#pragma GCC unroll 4
                for (int i = 0; i < Count; ++i) a[i] = load_up_to(A + i * of_A + n, left) * factors[i];
                power_of_two<Count>(a);
            }
            const vec<T> B = load(B_ + n), C = load(C_ + n);
#pragma GCC unroll 4
            for (int i = 0; i < Count; ++i) {
                S* const place = state + i * of_state + n;
                const vec<T> next = fma(a[i], load_up_to(place, left), B * inputs[i]);
                store_up_to(place, next, left);
                sum[i] = fma(left >= W ? next : select<T>(first_lanes(left), next, vec<T>{}), C, sum[i]);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) sums[i] = sum[i];
    }

    // x[i] = 2^x[i], operation by operation, as the latency of an operation is several times its share of the
    // throughput
    template <int Count> static FASTITER_INLINE void power_of_two(vec<T>* x) {
        constexpr T limit = sizeof(T) == 4 ? T(128) : T(1100), round = ExpConstants<T>::round;
        vec<T> n[Count], y[Count];
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) x[i] = at_most<T>(at_least<T>(x[i], -limit - 25), limit);
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) n[i] = (x[i] + round) - round;
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) x[i] -= n[i];
        exp2_reduced<T, Count>(x, y);
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) x[i] = scale<T>(y[i], n[i]);
    }

    static FASTITER_INLINE mask<T> first_lanes(int64_t n) {
        vec<T> numbers;
        for (int i = 0; i < W; ++i) numbers[i] = T(i);
        return numbers < broadcast(T(n));
    }

    // B and C of a group, padded with zeros
    void read_group(int64_t b, int64_t h) {
        const int64_t group = h / p_.per_group;
        const bool same = b == b_ && h_ >= 0 && group == h_ / p_.per_group;
        b_ = b;
        h_ = h;
        if (same) return;
        for (int64_t n = 0; n < p_.N; n += W) {
            store(B_ + n, read_states(p_.inputs, b, group, n));
            store(C_ + n, read_states(p_.outputs, b, group, n));
        }
    }
    vec<T> read_states(const Signal& x, int64_t b, int64_t group, int64_t n) const {
        alignas(64) T tile[W];
        read_tile(x, {b, n, min_of(W, p_.N - n), group, 1}, tile);
        return load(tile);
    }
    // In a step's signals the head takes the place of time; in B and C, the group does.
    static vec<T> read(const Signal& x, const Channels& at, bool has_rows = true) {
        const int64_t row = has_rows ? at.b : 0;
        alignas(64) T tile[W];
        if (x.channel != 1) {
            read_tile(x, {row, at.channel, at.count, at.h, 1}, tile);
            return load(tile);
        }
        vec<T> y;
        with_storage<T>(
            x, [&]<class S>(S* data) { y = load_up_to(data + row * x.row + at.h * x.time + at.channel, at.count); });
        return y;
    }
    static void write(const Signal& x, const Channels& at, vec<T> y) {
        alignas(64) T tile[W];
        store(tile, y);
        if (x.channel != 1) return write_tile(x, {at.b, at.channel, at.count, at.h, 1}, tile);
        with_storage<T>(
            x, [&]<class S>(S* data) { store_up_to(data + at.b * x.row + at.h * x.time + at.channel, y, at.count); });
    }

    const StateUpdate<T>& p_;
    T *B_, *C_;
    int64_t b_ = -1, h_ = -1; // indices of the last block
};

} // namespace

template <class T> size_t state_update_workspace(const StateUpdate<T>& p, int threads) {
    return size_t(threads) * size_t(Update<T>::numbers(p)) * sizeof(T);
}

template <class T> void state_update(const StateUpdate<T>& p, Team team) {
    const int64_t blocks = ceil_div(p.P, lanes<T>), units = p.B * p.H * blocks;
    Update<T> kernel(p, static_cast<T*>(p.workspace) + team.id * Update<T>::numbers(p));
    kernel.run(units * team.id / team.size, units * (team.id + 1) / team.size);
}

template size_t state_update_workspace(const StateUpdate<float>&, int);
template size_t state_update_workspace(const StateUpdate<double>&, int);
template void state_update(const StateUpdate<float>&, Team);
template void state_update(const StateUpdate<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
