// The selective scan, backward: from the last tile of time to the first. In a tile the states are recomputed from the
// saved ones; then the steps are visited in reverse, with l, the gradient of the state, in registers:
//     l[t] = C dy[t] + a[t+1] l[t+1],   dC = sum of dy h,   dB = sum of l d u,   dx = sum of l B,   w = a l h[t-1],
//     dA = sum of w d,   dd = u dx + sum of w A,   du = d dx + D dy.
// For complex states dy is twice the gradient of y; factors of l, dy and w are conjugated; and sums with a real result
// are sums of real parts.
#include "ssm/cpu/selective/visit.hpp"
#include "ssm/cpu/sums.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

// The partial sums: of dB and dC one per panel, of the others one per sequence; if there is only one, it is the result
// itself.
template <class T> struct Parts {
    T *dB = nullptr, *dC = nullptr, *dA = nullptr, *dD = nullptr, *dbias = nullptr;
    int64_t panels, sequences, of_projection, of_states, of_channels;

    Parts(const SelectiveGradient<T>& p, Arena& memory) {
        const SelectiveShape& s = p.forward.shape;
        panels = Panels<T>(s).panels;
        sequences = s.sequences.count;
        const int64_t numbers = s.N * (s.is_complex ? 2 : 1);
        of_projection = (s.sequences.starts ? 1 : sequences) * s.G * s.sequences.T * numbers;
        of_states = s.D * numbers;
        of_channels = s.D;
        take(memory, dB, p.dB, p.forward.B.fixed);
        take(memory, dC, p.dC, p.forward.C.fixed);
        dA = sequences > 1 ? memory.take<T>(sequences * of_states) : p.dA;
        dD = sequences > 1 ? memory.take<T>(sequences * of_channels) : p.dD;
        dbias = sequences > 1 ? memory.take<T>(sequences * of_channels) : p.dbias;
    }
    void add(const SelectiveGradient<T>& p, Team team) const {
        wait(team.barriers[0], team.size);
        add_projection(dB, p.dB, p.forward.B.fixed, team);
        add_projection(dC, p.dC, p.forward.C.fixed, team);
        if (sequences == 1) return;
        add_parts(dA, sequences, of_states, p.dA, team);
        add_parts(dD, sequences, of_channels, p.dD, team);
        add_parts(dbias, sequences, of_channels, p.dbias, team);
    }

private:
    void take(Arena& memory, T*& part, T* result, bool fixed) const {
        if (fixed)
            part = sequences > 1 ? memory.take<T>(sequences * of_states) : result;
        else
            part = panels > 1 ? memory.take<T>(panels * of_projection) : result;
    }
    void add_projection(const T* parts, T* out, bool fixed, Team team) const {
        if (fixed && sequences != 1) add_parts(parts, sequences, of_states, out, team);
        if (!fixed && panels > 1) add_parts(parts, panels, of_projection, out, team);
    }
};

template <class T, bool Complex> class Backward {
    static constexpr int W = lanes<T>, P = kParts<Complex>;

public:
    Backward(const SelectiveGradient<T>& p, const Parts<T>& parts, void* memory)
        : p_(p), f_(p.forward), s_(p.forward.shape), parts_(parts), numbers_(s_.N * P),
          lanes_(f_.B.fixed || f_.C.fixed), streams_du_(streams<T>(p.du, s_)),
          streams_ddelta_(streams<T>(p.ddelta, s_)), streams_dz_(streams<T>(p.dz, s_)) {
        Arena cut(memory);
        rates_.take(cut, s_.N);
        B_.take(cut, f_.B, s_.N, lanes_);
        C_.take(cut, f_.C, s_.N, lanes_);
        al_ = cut.take<T>(kPanel * numbers_ * W);
        dA_ = cut.take<T>(kPanel * numbers_ * W);
        before_ = cut.take<T>(numbers_ * W);
        dB_ = cut.take<T>(Sums<T, Complex>::numbers(s_.N, f_.B.fixed));
        dC_ = cut.take<T>(Sums<T, Complex>::numbers(s_.N, f_.C.fixed));
        dD_ = cut.take<T>(kPanel * W);
        dbias_ = cut.take<T>(kPanel * W);
        history_ = cut.take<T>((2 * kTile + 1) * kVisited<Complex> * P * W);
        for (T** tile : {&d_, &xu_, &dy_, &dx_, &dd_, &y_, &u_, &slope_, &z_}) *tile = cut.take<T>(kSignal<T>);
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }

    void run(const Unit<T>& unit, Team team) {
        const Sequence q = sequence(s_.sequences, unit.sequence);
        begin(unit);
        for (int64_t time = (ceil_div(q.padded, kTile) - 1) * kTile; time >= 0; time -= kTile) {
            if (has_to_stop(team, 4 * kTile * unit.blocks * numbers_ * W)) return;
            const int64_t steps = min_of(kTile, q.steps - time);
            if (steps < kTile) zero_padding(unit, q, time + max_of(steps, 0), min_of(time + kTile, q.padded));
            if (steps > 0) run_tile(unit, q, time, steps);
        }
        finish(unit);
    }

private:
    void begin(const Unit<T>& unit) {
        rates_.read(f_.A, s_.N, unit);
        if (f_.B.fixed) B_.read_fixed(f_.B, s_.N, unit);
        if (f_.C.fixed) C_.read_fixed(f_.C, s_.N, unit);
        const int64_t all = unit.blocks * numbers_ * W;
        for (T* x : {al_, dA_}) fill_zero(x, all);
        for (T* x : {dD_, dbias_}) fill_zero(x, kPanel * W);
        if (f_.B.fixed) fill_zero(dB_, all);
        if (f_.C.fixed) fill_zero(dC_, all);
        if (!p_.dlast) return;
        for (int64_t b = 0; b < unit.blocks; ++b) {
            const Place at = {unit.sequence, unit.channel(b), unit.width(b), 0, numbers_};
            read_tile(states_of(p_.dlast, s_.D, numbers_), at, al_ + b * numbers_ * W);
        }
    }

    void run_tile(const Unit<T>& unit, const Sequence& q, int64_t time, int64_t steps) {
        uint8_t flags[kTile];
        const uint8_t* reset = reset_of(s_.sequences, q, time, steps, flags);
        if (!f_.B.fixed) B_.read(f_.B, s_.N, q, unit.group, time, steps);
        if (!f_.C.fixed) C_.read(f_.C, s_.N, q, unit.group, time, steps);
        if (!f_.B.fixed) fill_zero(dB_, Sums<T, Complex>::numbers(s_.N, false));
        if (!f_.C.fixed) fill_zero(dC_, Sums<T, Complex>::numbers(s_.N, false));
        const int64_t tile = tiles_before(s_.sequences, q.index, kTile) + time / kTile;
        for (int64_t b = 0; b < unit.blocks; ++b) {
            const Place at = {q.row, unit.channel(b), unit.width(b), q.start + time, steps};
            read_tile(states_of(f_.states, s_.D, numbers_), {tile, at.channel, at.channels, 0, numbers_}, before_);
            const vec<T> largest = read(at);
            find_next(unit, q, b, time, tile);
            const int64_t block = b * numbers_ * W;
            const Tile<T, Complex> w = {d_,
                                        f_.z.data != nullptr,
                                        B_.weights(f_.B, s_.N, b),
                                        C_.weights(f_.C, s_.N, b),
                                        {f_.B.fixed ? dB_ + block : dB_, f_.B.fixed},
                                        {f_.C.fixed ? dC_ + block : dC_, f_.C.fixed},
                                        reset,
                                        steps,
                                        history_,
                                        &lines_};
            const States<T> states = {rates_.of(b, s_.N), before_, al_ + block, dA_ + block};
            const bool small = rates_.are_small(b, largest);
            (lanes_  ? small ? visit_all<T, Complex, true, true> : visit_all<T, Complex, false, true>
             : small ? visit_all<T, Complex, true, false>
                     : visit_all<T, Complex, false, false>)(w, s_.N, states);
            write(at, b);
        }
        write_projections(unit, q, time, steps);
    }

    // Reads a tile: u, d, its derivative with respect to delta, d u, dy, D u if y is requested, and, in place of z, the
    // derivative of the loss with respect to z, divided by y; returns the largest magnitudes of d.
    vec<T> read(const Place& at) {
        const vec<T> bias = f_.delta_bias ? load_up_to(f_.delta_bias + at.channel, at.channels) : vec<T>{};
        const vec<T> D = f_.D ? load_up_to(f_.D + at.channel, at.channels) : vec<T>{};
        read_tile(f_.u, at, u_);
        read_tile(f_.delta, at, d_);
        if (f_.z.data) read_tile(f_.z, at, z_);
        if (p_.d_out.data)
            read_tile(p_.d_out, at, dy_);
        else
            fill_zero(dy_, at.steps * W);
        vec<T> largest{};
        for_steps(at.steps, [&]<int Count>(int64_t t) {
            vec<T> raw[Count];
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) raw[i] = load(d_ + (t + i) * W) + bias;
            const StepSizes<T, Count> step(raw, s_.softplus);
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) {
                const int64_t place = (t + i) * W;
                const vec<T> u = load(u_ + place), d = step.d[i];
                largest = max_keeping_nan(magnitude<T>(d), largest);
                store(d_ + place, d);
                store(slope_ + place, step.slope[i]);
                store(xu_ + place, d * u);
                store(y_ + place, f_.D ? D * u * T(1.0 / P) : vec<T>{});
                store(dx_ + place, vec<T>{});
                store(dd_ + place, vec<T>{});
            }
            read_gate<Count>(t);
        });
        return largest;
    }

    // dy from the gradient of out, and the derivative of the loss with respect to z, divided by y
    template <int Count> FASTITER_INLINE void read_gate(int64_t t) {
        vec<T> dy[Count];
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) dy[i] = load(dy_ + (t + i) * W) * T(P);
        if (f_.z.data) {
            vec<T> s[Count];
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) s[i] = load(z_ + (t + i) * W);
            sigmoids<T, Count>(s);
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) {
                const vec<T> z = load(z_ + (t + i) * W), one = broadcast(T(1));
                store(z_ + (t + i) * W, dy[i] * (s[i] * fma(z, one - s[i], one)));
                dy[i] *= z * s[i];
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < Count; ++i) store(dy_ + (t + i) * W, dy[i]);
    }

    void write(const Place& at, int64_t b) {
        const vec<T> D = f_.D ? load_up_to(f_.D + at.channel, at.channels) : vec<T>{};
        if (p_.dz.data) {
            if (!p_.d_out.data) fill_zero(z_, at.steps * W); // whatever y is
            for (int64_t i = 0; p_.d_out.data && i < at.steps * W; i += W) store(z_ + i, load(z_ + i) * load(y_ + i));
            write_tile(p_.dz, at, z_, W, streams_dz_);
        }
        vec<T> dD = load(dD_ + b * W), dbias = load(dbias_ + b * W);
        for (int64_t i = 0; i < at.steps * W; i += W) {
            const vec<T> u = load(u_ + i), dx = load(dx_ + i), dy = load(dy_ + i) * T(1.0 / P);
            const vec<T> ddelta = fma(u, dx, load(dd_ + i) * T(kLn2)) * load(slope_ + i);
            dD = fma(dy, u, dD);
            dbias += ddelta;
            store(dd_ + i, ddelta);
            store(dx_ + i, f_.D ? fma(load(d_ + i), dx, D * dy) : load(d_ + i) * dx);
        }
        store(dD_ + b * W, dD);
        store(dbias_ + b * W, dbias);
        if (p_.du.data) write_tile(p_.du, at, dx_, W, streams_du_);
        if (p_.ddelta.data) write_tile(p_.ddelta, at, dd_, W, streams_ddelta_);
    }

    void write_projections(const Unit<T>& unit, const Sequence& q, int64_t time, int64_t steps) {
        for (int64_t t = 0; t < steps; ++t) {
            write_sums({dB_, f_.B.fixed}, t, projection(parts_.dB, f_.B.fixed, unit, q, time + t));
            write_sums({dC_, f_.C.fixed}, t, projection(parts_.dC, f_.C.fixed, unit, q, time + t));
        }
    }
    void write_sums(const Sums<T, Complex>& sums, int64_t t, T* out) const {
        if (!out) return;
        add_channels([&](int64_t i) { return sums.at(i / P) + t * sums.time() + i % P * W; }, numbers_, out);
    }

    // The destination of a unit's sum over its channels: (panel, row, group, time, N)
    T* projection(T* part, bool fixed, const Unit<T>& unit, const Sequence& q, int64_t time) const {
        if (!part || fixed) return nullptr;
        const int64_t panel = parts_.panels > 1 ? unit.panel * parts_.of_projection : 0;
        return part + panel + ((q.row * s_.G + unit.group) * s_.sequences.T + q.start + time) * numbers_;
    }

    void finish(const Unit<T>& unit) {
        const int64_t sequence = parts_.sequences > 1 ? unit.sequence : 0;
        for (int64_t b = 0; b < unit.blocks; ++b) {
            const int64_t block = b * numbers_ * W, channel = unit.channel(b), width = unit.width(b);
            const Place at = {sequence, channel, width, 0, numbers_};
            if (parts_.dA) write_tile(states_of(parts_.dA, s_.D, numbers_), at, dA_ + block);
            if (parts_.dB && f_.B.fixed) write_tile(states_of(parts_.dB, s_.D, numbers_), at, dB_ + block);
            if (parts_.dC && f_.C.fixed) write_tile(states_of(parts_.dC, s_.D, numbers_), at, dC_ + block);
            if (parts_.dD) store_up_to(parts_.dD + sequence * s_.D + channel, load(dD_ + b * W), width);
            if (parts_.dbias) store_up_to(parts_.dbias + sequence * s_.D + channel, load(dbias_ + b * W), width);
            if (p_.dfirst)
                write_tile(states_of(p_.dfirst, s_.D, numbers_), {unit.sequence, channel, width, 0, numbers_},
                           al_ + block);
        }
    }

    void zero_padding(const Unit<T>& unit, const Sequence& q, int64_t from, int64_t to) {
        fill_zero(y_, kTile * W);
        for (int64_t b = 0; b < unit.blocks; ++b)
            for (const Signal* x : {&p_.du, &p_.ddelta, &p_.dz})
                if (x->data) write_tile(*x, {q.row, unit.channel(b), unit.width(b), q.start + from, to - from}, y_);
        for (int64_t t = from; t < to; ++t) {
            if (T* dB = projection(parts_.dB, f_.B.fixed, unit, q, t)) fill_zero(dB, numbers_);
            if (T* dC = projection(parts_.dC, f_.C.fixed, unit, q, t)) fill_zero(dC, numbers_);
        }
    }

    // Finds what to prefetch: the tile after block b, that is the next block's, or the first one of the earlier steps.
    void find_next(const Unit<T>& unit, const Sequence& q, int64_t b, int64_t time, int64_t tile) {
        lines_.clear();
        const bool same = b + 1 < unit.blocks;
        const int64_t next = same ? b + 1 : 0, from = same ? time : time - kTile;
        if (from < 0) return;
        const Place at = {q.row, unit.channel(next), unit.width(next), q.start + from, min_of(kTile, q.steps - from)};
        for (const Signal* x : {&f_.u, &f_.delta, &f_.z, &p_.d_out}) lines_.add<T>(*x, at);
        if (!streams_du_) lines_.add<T>(p_.du, at);
        if (!streams_ddelta_) lines_.add<T>(p_.ddelta, at);
        if (!streams_dz_) lines_.add<T>(p_.dz, at);
        // Its states, or the first of them, which are contiguous
        const Place saved = {same ? tile : tile - 1, at.channel, at.channels, 0, min_of(numbers_, kTile)};
        lines_.add<T>(states_of(f_.states, s_.D, numbers_), saved);
    }

    const SelectiveGradient<T>& p_;
    const SelectiveScan<T>& f_;
    const SelectiveShape& s_;
    const Parts<T>& parts_;
    const int64_t numbers_; // numbers in a channel's states
    const bool lanes_, streams_du_, streams_ddelta_, streams_dz_;
    Rates<T, Complex> rates_;
    ProjectionTile<T, Complex> B_, C_;
    Lines lines_;
    T *al_ = nullptr, *dA_ = nullptr, *before_ = nullptr, *dB_ = nullptr, *dC_ = nullptr, *dD_ = nullptr,
      *dbias_ = nullptr, *history_ = nullptr;
    T *u_ = nullptr, *d_ = nullptr, *slope_ = nullptr, *xu_ = nullptr, *z_ = nullptr, *dy_ = nullptr, *y_ = nullptr,
      *dx_ = nullptr, *dd_ = nullptr;
    size_t bytes_ = 0;
};

template <class T, bool Complex> void run_units(const SelectiveGradient<T>& p, Team team) {
    Arena shared(p.workspace);
    const Parts<T> parts(p, shared);
    char* own = static_cast<char*>(p.workspace) + shared.bytes();
    Backward<T, Complex> kernel(p, parts, own + size_t(team.id) * Backward<T, Complex>(p, parts, nullptr).bytes());
    const Panels<T> panels(p.forward.shape);
    const int64_t first = panels.units * team.id / team.size, last = panels.units * (team.id + 1) / team.size;
    for (int64_t u = first; u < last; ++u) kernel.run(Unit<T>(p.forward.shape, panels, u), team);
    stream_fence();
    parts.add(p, team);
}

} // namespace

template <class T> size_t selective_gradient_workspace(const SelectiveGradient<T>& p, int threads) {
    Arena shared(nullptr);
    const Parts<T> parts(p, shared);
    const size_t own = p.forward.shape.is_complex ? Backward<T, true>(p, parts, nullptr).bytes()
                                                  : Backward<T, false>(p, parts, nullptr).bytes();
    return shared.bytes() + size_t(threads) * own;
}

template <class T> void selective_gradient(const SelectiveGradient<T>& p, Team team) {
    (p.forward.shape.is_complex ? run_units<T, true> : run_units<T, false>)(p, team);
}

template size_t selective_gradient_workspace(const SelectiveGradient<float>&, int);
template size_t selective_gradient_workspace(const SelectiveGradient<double>&, int);
template void selective_gradient(const SelectiveGradient<float>&, Team);
template void selective_gradient(const SelectiveGradient<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
