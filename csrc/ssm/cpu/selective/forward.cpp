// The selective scan, forward: the loop over tiles of time is outermost, so that B and C are transposed once for all
// channels of a panel; within a tile the states of a vector of channels stay in registers.
#include "ssm/cpu/selective/selective.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

template <class T> void selective_gradient(const SelectiveGradient<T>&, Team);
template <class T> size_t selective_gradient_workspace(const SelectiveGradient<T>&, int threads);
template <class T> void state_update(const StateUpdate<T>&, Team);
template <class T> size_t state_update_workspace(const StateUpdate<T>&, int threads);

namespace {

// A tile of a vector of channels: (steps, lanes)
template <class T> struct Tile {
    const T* d;
    const T* du;
    T* y;
    Weights<T> B, C;
    const uint8_t* reset;
    int64_t steps;
    Lines* lines;
};

// Advances `Count` states from n on and adds their contribution to y.
template <class T, bool Complex, int Count, bool Small, bool Lanes>
FASTITER_NOINLINE void advance(const Tile<T>& w, int64_t n, const T* rates, T* h) {
    constexpr int W = lanes<T>, P = kParts<Complex>, R = kRates<Complex>;
    Number<T, Complex> state[Count];
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) state[i] = load_number<T, Complex>(h + (n + i) * P * W);
    Weights<T> B = weights_from<T, Complex, Lanes>(w.B, 0, n), C = weights_from<T, Complex, Lanes>(w.C, 0, n);
    for (int64_t t = 0; t < w.steps; ++t, B.data += B.time, C.data += C.time) {
        if (w.reset && w.reset[t])
            for (auto& s : state) s = {};
        w.lines->fetch();
        const vec<T> d = load(w.d + t * W), du = load(w.du + t * W);
        vec<T> y = load(w.y + t * W);
        constexpr int kLockstep = min_of(Count, 4);
#pragma GCC unroll 4
        for (int i = 0; i < Count; i += kLockstep) {
            Number<T, Complex> a[kLockstep];
            decay<T, Complex, Small, kLockstep>(d, rates + (n + i) * R * W, a);
#pragma GCC unroll 4
            for (int j = 0; j < kLockstep; ++j) {
                const auto input = scaled(du, weight<T, Complex, Lanes>(B, i + j));
                state[i + j] = multiply_add(a[j], state[i + j], input);
            }
#pragma GCC unroll 4
            for (int j = 0; j < kLockstep; ++j)
                y = add_real_part<T, Complex, false>(state[i + j], weight<T, Complex, Lanes>(C, i + j), y);
        }
        store(w.y + t * W, y);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) store_number(h + (n + i) * P * W, state[i]);
}

template <class T, bool Complex, bool Small, bool Lanes>
void advance_all(const Tile<T>& w, int64_t N, const T* rates, T* h) {
    // With more, states would be spilled to memory and reloaded at every step.
    constexpr int64_t kMaxStates = Complex ? kVectorBytes == 64 ? 4 : 2 : 8;
    w.lines->divide(w.steps * ceil_div(N, kMaxStates));
    int64_t n = 0;
    for (; n + kMaxStates <= N; n += kMaxStates) advance<T, Complex, kMaxStates, Small, Lanes>(w, n, rates, h);
    if constexpr (kMaxStates > 4)
        for (; n + 4 <= N; n += 4) advance<T, Complex, 4, Small, Lanes>(w, n, rates, h);
    for (; n < N; ++n) advance<T, Complex, 1, Small, Lanes>(w, n, rates, h);
}

// The instances by whether the states are in lanes and whether all exponents are small.
template <class T, bool Complex>
constexpr void (*kAdvance[2][2])(const Tile<T>&, int64_t, const T*, T*) = {
    {advance_all<T, Complex, false, false>, advance_all<T, Complex, true, false>},
    {advance_all<T, Complex, false, true>, advance_all<T, Complex, true, true>},
};

template <class T, bool Complex> class Forward {
    static constexpr int W = lanes<T>, P = kParts<Complex>;

public:
    Forward(const SelectiveScan<T>& p, void* memory)
        : p_(p), s_(p.shape), numbers_(s_.N * P), lanes_(p.B.fixed || p.C.fixed), streams_(streams<T>(p.out, s_)) {
        Arena cut(memory);
        rates_.take(cut, s_.N);
        h_ = cut.take<T>(kPanel * numbers_ * W);
        B_.take(cut, p.B, s_.N, lanes_);
        C_.take(cut, p.C, s_.N, lanes_);
        for (T** tile : {&d_, &du_, &y_, &z_}) *tile = cut.take<T>(kTile * W);
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }

    void run(const Unit<T>& unit, Team team) {
        const Sequence q = sequence(s_.sequences, unit.sequence);
        begin(unit);
        for (int64_t time = 0; time < q.padded; time += kTile) {
            if (has_to_stop(team, kTile * unit.blocks * numbers_ * W)) return;
            const int64_t steps = min_of(kTile, q.steps - time);
            if (steps > 0) run_tile(unit, q, time, steps);
            if (steps < kTile) zero_padding(unit, q, time + max_of(steps, 0), min_of(time + kTile, q.padded));
        }
        const Signal last = states_of(p_.last, s_.D, numbers_);
        for (int64_t b = 0; b < unit.blocks; ++b)
            write_tile(last, {q.index, unit.channel(b), unit.width(b), 0, numbers_}, h_ + b * numbers_ * W);
    }

private:
    void begin(const Unit<T>& unit) {
        rates_.read(p_.A, s_.N, unit);
        if (p_.B.fixed) B_.read_fixed(p_.B, s_.N, unit);
        if (p_.C.fixed) C_.read_fixed(p_.C, s_.N, unit);
        for (int64_t b = 0; b < unit.blocks; ++b) {
            T* h = h_ + b * numbers_ * W;
            for (int64_t n = 0; n < numbers_; ++n) store(h + n * W, vec<T>{});
            if (!p_.first) continue;
            const Place at = {unit.sequence, unit.channel(b), unit.width(b), 0, numbers_};
            read_tile(states_of(p_.first, s_.D, numbers_), at, h);
        }
    }

    void run_tile(const Unit<T>& unit, const Sequence& q, int64_t time, int64_t steps) {
        uint8_t flags[kTile];
        const uint8_t* reset = reset_of(s_.sequences, q, time, steps, flags);
        if (!p_.B.fixed) B_.read(p_.B, s_.N, q, unit.group, time, steps);
        if (!p_.C.fixed) C_.read(p_.C, s_.N, q, unit.group, time, steps);
        const int64_t tile = tiles_before(s_.sequences, q.index, kTile) + time / kTile;
        for (int64_t b = 0; b < unit.blocks; ++b) {
            const Place at = {q.row, unit.channel(b), unit.width(b), q.start + time, steps};
            T* h = h_ + b * numbers_ * W;
            if (p_.states)
                write_tile(states_of(p_.states, s_.D, numbers_), {tile, at.channel, at.channels, 0, numbers_}, h);
            const vec<T> largest = read(at);
            find_next(unit, q, b, time);
            const Tile<T> w = {d_,    du_,   y_,     B_.weights(p_.B, s_.N, b), C_.weights(p_.C, s_.N, b),
                               reset, steps, &lines_};
            const bool small = rates_.are_small(b, largest);
            kAdvance<T, Complex>[lanes_][small](w, s_.N, rates_.of(b, s_.N), h);
            write(at);
        }
    }

    // Reads a tile: d, d u and D u, half of it for complex states; returns the largest magnitudes of d.
    vec<T> read(const Place& at) {
        const vec<T> bias = p_.delta_bias ? load_up_to(p_.delta_bias + at.channel, at.channels) : vec<T>{};
        const vec<T> D = (p_.D ? load_up_to(p_.D + at.channel, at.channels) : vec<T>{}) * T(1.0 / P);
        read_tile(p_.u, at, du_);
        read_tile(p_.delta, at, d_);
        vec<T> largest{};
        for_steps(at.steps, [&]<int Count>(int64_t t) {
            vec<T> raw[Count];
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) raw[i] = load(d_ + (t + i) * W) + bias;
            const StepSizes<T, Count> step(raw, s_.softplus);
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) {
                const int64_t place = (t + i) * W;
                const vec<T> u = load(du_ + place), d = step.d[i];
                largest = max_keeping_nan(magnitude<T>(d), largest); // ignores NaN, which every path propagates
                store(d_ + place, d);
                store(du_ + place, d * u);
                store(y_ + place, p_.D ? D * u : vec<T>{});
            }
        });
        return largest;
    }

    void write(const Place& at) {
        if (Complex) // twice the real part
            for (int64_t t = 0; t < at.steps; ++t) store(y_ + t * W, load(y_ + t * W) * T(2));
        if (p_.z.data) {
            read_tile(p_.z, at, z_);
            for_steps(at.steps, [&]<int Count>(int64_t t) {
                vec<T> s[Count];
#pragma GCC unroll 8
                for (int i = 0; i < Count; ++i) s[i] = load(z_ + (t + i) * W);
                sigmoids<T, Count>(s);
#pragma GCC unroll 8
                for (int i = 0; i < Count; ++i) {
                    const int64_t place = (t + i) * W;
                    store(y_ + place, load(y_ + place) * (load(z_ + place) * s[i]));
                }
            });
        }
        write_tile(p_.out, at, y_, W, streams_);
    }

    // Finds what to prefetch: the tile after block b, that is the next block's, or the first one of the next steps.
    void find_next(const Unit<T>& unit, const Sequence& q, int64_t b, int64_t time) {
        lines_.clear();
        const bool same = b + 1 < unit.blocks;
        const int64_t next = same ? b + 1 : 0, from = same ? time : time + kTile;
        const Place at = {q.row, unit.channel(next), unit.width(next), q.start + from, min_of(kTile, q.steps - from)};
        if (at.steps <= 0) return;
        for (const Signal* x : {&p_.u, &p_.delta, &p_.z}) lines_.add<T>(*x, at);
        if (!streams_) lines_.add<T>(p_.out, at);
    }

    void zero_padding(const Unit<T>& unit, const Sequence& q, int64_t from, int64_t to) {
        for (int64_t t = 0; t < kTile; ++t) store(y_ + t * W, vec<T>{});
        for (int64_t b = 0; b < unit.blocks; ++b)
            write_tile(p_.out, {q.row, unit.channel(b), unit.width(b), q.start + from, to - from}, y_);
    }

    const SelectiveScan<T>& p_;
    const SelectiveShape& s_;
    const int64_t numbers_; // numbers in a channel's states
    const bool lanes_, streams_;
    Rates<T, Complex> rates_;
    ProjectionTile<T, Complex> B_, C_;
    Lines lines_;
    T *h_ = nullptr, *d_ = nullptr, *du_ = nullptr, *y_ = nullptr, *z_ = nullptr;
    size_t bytes_ = 0;
};

template <class T> size_t workspace(const SelectiveScan<T>& p, int threads) {
    return size_t(threads) *
           (p.shape.is_complex ? Forward<T, true>(p, nullptr).bytes() : Forward<T, false>(p, nullptr).bytes());
}

template <class T, bool Complex> void run_units(const SelectiveScan<T>& p, Team team) {
    const Panels<T> panels(p.shape);
    char* memory = static_cast<char*>(p.workspace);
    Forward<T, Complex> kernel(p, memory + size_t(team.id) * Forward<T, Complex>(p, nullptr).bytes());
    const int64_t first = panels.units * team.id / team.size, last = panels.units * (team.id + 1) / team.size;
    for (int64_t u = first; u < last; ++u) kernel.run(Unit<T>(p.shape, panels, u), team);
    stream_fence();
}

template <class T> void forward(const SelectiveScan<T>& p, Team team) {
    (p.shape.is_complex ? run_units<T, true> : run_units<T, false>)(p, team);
}

template <class T> int64_t units(const SelectiveShape& s, bool) { return Panels<T>(s).units; }

template <class T>
constexpr SelectiveKernels<T> selective_for = {
    units<T>,
    workspace<T>,
    forward<T>,
    selective_gradient_workspace<T>,
    selective_gradient<T>,
    state_update_workspace<T>,
    state_update<T>,
};

} // namespace

const Kernels kernels = {selective_for<float>, selective_for<double>};

} // namespace fastiter::ssm::FASTITER_LEVEL
