// One step of a selective scan: vectors of the N states of a channel, as these are contiguous.
#include "core/cpu/vmath.hpp"
#include "ssm/cpu/tiles.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

template <class T> class Update {
    static constexpr int W = lanes<T>;

public:
    Update(const StateUpdate<T>& p, void* memory) : p_(p) {
        B_ = static_cast<T*>(memory);
        C_ = B_ + round_up(p.N, W);
    }
    static int64_t numbers(const StateUpdate<T>& p) { return 2 * round_up(p.N, W); }

    // Channels [channel, channel + W) of a head of row b
    void run(int64_t b, int64_t h, int64_t channel) {
        const int64_t count = min_of(W, p_.P - channel);
        const int64_t row = p_.rows ? p_.rows[b] : b;
        if (row < 0) return write(p_.out, b, h, channel, count, vec<T>{});
        if (b != b_ || h / p_.per_group != group_) read_group(b, h / p_.per_group);
        const vec<T> x = read(p_.x, b, h, channel, count);
        vec<T> d = read(p_.dt, b, h, channel, count);
        if (p_.dt_bias.data) d += read(p_.dt_bias, 0, h, channel, count);
        if (p_.softplus) d = select<T>(d > T(20), d, -log_sigmoid<T>(-d));
        vec<T> y = advance(row, h, channel, count, d, d * x);
        if (p_.D.data) y = fma(read(p_.D, 0, h, channel, count), x, y);
        if (p_.z.data) {
            const vec<T> z = read(p_.z, b, h, channel, count);
            y *= z * sigmoid<T>(z);
        }
        write(p_.out, b, h, channel, count, y);
    }

private:
    // Advances the states of up to a vector of channels; returns the sums of C h.
    vec<T> advance(int64_t row, int64_t h, int64_t channel, int64_t count, vec<T> d, vec<T> du) {
        vec<T> sums[W] = {}, decays{};
        const T* A = p_.A + h * p_.A_head + channel * p_.A_channel;
        if (!p_.A_state) { // one number for all N
            for (int64_t c = 0; c < count; ++c) decays[c] = A[c * p_.A_channel];
            decays = exp<T>(decays * d);
        }
        with_storage<T>({p_.state, 0, 0, 0, p_.state_storage}, [&]<class S>(S* state) {
            state += row * p_.state_row + h * p_.state_head + channel * p_.state_channel;
            for (int64_t c = 0; c < count; ++c, state += p_.state_channel, A += p_.A_channel)
                sums[c] = p_.A_state ? advance_channel<S, false>(state, A, d[c], du[c])
                                     : advance_channel<S, true>(state, A, decays[c], du[c]);
        });
        transpose<T>(sums);
        for (int i = 1; i < W; ++i) sums[0] += sums[i];
        return sums[0];
    }

    // d: the step size or, with OneDecay, the decay
    template <class S, bool OneDecay> FASTITER_INLINE vec<T> advance_channel(S* state, const T* A, T d, T du) const {
        vec<T> sum{};
        for (int64_t n = 0; n < p_.N; n += W) {
            const int64_t left = p_.N - n;
            const vec<T> a = OneDecay ? broadcast(d) : exp<T>(load_up_to(A + n, left) * d);
            const vec<T> next = fma(a, load_up_to(state + n, left), load(B_ + n) * du);
            store_up_to(state + n, next, left);
            sum = fma(left >= W ? next : select<T>(first_lanes(left), next, vec<T>{}), load(C_ + n), sum);
        }
        return sum;
    }

    static FASTITER_INLINE mask<T> first_lanes(int64_t n) {
        vec<T> numbers;
        for (int i = 0; i < W; ++i) numbers[i] = T(i);
        return numbers < broadcast(T(n));
    }

    // B and C of a group, padded with zeros
    void read_group(int64_t b, int64_t group) {
        b_ = b, group_ = group;
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
    // A step's signals have the head, and B and C the group, in the place of time.
    static vec<T> read(const Signal& x, int64_t b, int64_t h, int64_t channel, int64_t count) {
        alignas(64) T tile[W];
        read_tile(x, {b, channel, count, h, 1}, tile);
        return load(tile);
    }
    static void write(const Signal& x, int64_t b, int64_t h, int64_t channel, int64_t count, vec<T> y) {
        alignas(64) T tile[W];
        store(tile, y);
        write_tile(x, {b, channel, count, h, 1}, tile);
    }

    const StateUpdate<T>& p_;
    T *B_, *C_;
    int64_t b_ = -1, group_ = -1;
};

} // namespace

template <class T> size_t state_update_workspace(const StateUpdate<T>& p, int threads) {
    return size_t(threads) * size_t(Update<T>::numbers(p)) * sizeof(T);
}

template <class T> void state_update(const StateUpdate<T>& p, Team team) {
    const int64_t blocks = ceil_div(p.P, lanes<T>), units = p.B * p.H * blocks;
    Update<T> kernel(p, static_cast<T*>(p.workspace) + team.id * Update<T>::numbers(p));
    for (int64_t u = units * team.id / team.size; u < units * (team.id + 1) / team.size; ++u)
        kernel.run(u / (p.H * blocks), u / blocks % p.H, u % blocks * lanes<T>);
}

template size_t state_update_workspace(const StateUpdate<float>&, int);
template size_t state_update_workspace(const StateUpdate<double>&, int);
template void state_update(const StateUpdate<float>&, Team);
template void state_update(const StateUpdate<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
