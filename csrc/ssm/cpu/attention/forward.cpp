// Linear attention, forward: one pass over the rows of the state performs several steps, whose inputs v and outputs o
// stay in registers; every element goes through the same operations in the same order as in the loop over the steps.
#include "ssm/cpu/attention/gates.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

template <class T> size_t attention_gradient_workspace(const AttentionGradient<T>&, int threads);
template <class T> void attention_gradient(const AttentionGradient<T>&, Team);

namespace {

// The arguments of a pass at its first step: panels, except for v and o, which have a time stride
template <class T> struct Pass {
    const T *q, *k, *decay, *v;
    T* o;
    int64_t v_line, o_line;
    const T* coefficients; // with a bonus: the sum over k of q bonus k at each step
    int64_t K;
};

template <class T, int Count, Decay D, bool Before>
FASTITER_NOINLINE void advance(const Pass<T>& w, T* state, Upcoming& upcoming) {
    constexpr int W = lanes<T>, C = kColumnVectors;
    vec<T> v[Count][C], o[Count][C];
#pragma GCC unroll 8
    for (int t = 0; t < Count; ++t)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) {
            v[t][c] = load(w.v + t * w.v_line + c * W);
            o[t][c] = Before ? v[t][c] * w.coefficients[t] : vec<T>{};
        }
    for (int64_t from = 0; from < w.K; from += kPanelWidth) {
        const int64_t panel = from / kPanelWidth * kPanelSize, rows = min_of(kPanelWidth, w.K - from);
        const T *q = w.q + panel, *k = w.k + panel, *decay = D == Decay::vector ? w.decay + panel : w.decay;
        for (int64_t n = 0; n < rows; ++n, state += kColumns<T>) {
            if (n % kPrefetchRows == 0) upcoming.prefetch_share();
            vec<T> S[C];
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) S[c] = load(state + c * W);
#pragma GCC unroll 8
            for (int t = 0; t < Count; ++t) {
                const int64_t step = t * kPanelWidth;
                const vec<T> qt = broadcast(q[step + n]), kt = broadcast(k[step + n]);
#pragma GCC unroll 2
                for (int c = 0; c < C; ++c) {
                    if (Before) o[t][c] = fma(qt, S[c], o[t][c]);
                    if constexpr (D == Decay::none)
                        S[c] = fma(kt, v[t][c], S[c]);
                    else
                        S[c] = fma(broadcast(decay[step + (D == Decay::vector ? n : 0)]), S[c], kt * v[t][c]);
                    if (!Before) o[t][c] = fma(qt, S[c], o[t][c]);
                }
            }
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) store(state + c * W, S[c]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < Count; ++t)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) store(w.o + t * w.o_line + c * W, o[t][c]);
}

template <class T, int Count> void advance_by(const Pass<T>& w, Decay decay, T* state, Upcoming& upcoming) {
    const bool before = w.coefficients;
    if (decay == Decay::none)
        (before ? advance<T, Count, Decay::none, true> : advance<T, Count, Decay::none, false>)(w, state, upcoming);
    else if (decay == Decay::scalar)
        (before ? advance<T, Count, Decay::scalar, true> : advance<T, Count, Decay::scalar, false>)(w, state, upcoming);
    else
        (before ? advance<T, Count, Decay::vector, true> : advance<T, Count, Decay::vector, false>)(w, state, upcoming);
}

template <class T> class Forward {
public:
    Forward(const Attention<T>& p, void* memory) : p_(p), s_(p.shape) {
        Arena cut(memory);
        q_.take(cut, s_.K);
        k_.take(cut, s_.K);
        decay_.take(cut, decay_units(s_));
        v_.panel.take(cut, s_.V);
        o_.panel.take(cut, s_.V);
        coefficients_ = cut.take<T>(kAttentionTile);
        states_.take(cut, s_.K, s_.V);
        if (p.gates.present) {
            gates_.take(cut);
            n_ = cut.take<T>(round_up(s_.K, lanes<T>));
            products_ = cut.take<T>(kAttentionTile);
        }
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }

    // Unit: (sequence, value head)
    void run(int64_t unit, Team team) {
        const Sequence q = sequence(s_.sequences, unit / s_.heads);
        head_ = unit % s_.heads;
        const int64_t size = s_.K * s_.V;
        states_.read(p_.first ? p_.first + unit * size : nullptr);
        if (p_.gates.present) read_normalizer(unit);
        for (int64_t time = 0; time < q.padded; time += kAttentionTile) {
            if (has_to_stop(team, kAttentionTile * size)) return;
            const int64_t steps = min_of(kAttentionTile, q.steps - time);
            if (steps > 0) {
                save(q, time / kAttentionTile);
                run_tile(q, time, steps);
            }
            if (steps < kAttentionTile)
                zero_padding(q, time + max_of(steps, 0), min_of(time + kAttentionTile, q.padded));
        }
        states_.write(p_.last + unit * size);
        if (p_.gates.present) write_normalizer(p_.gates.last_n, p_.gates.last_m, unit);
    }

private:
    // Saves the state before a tile for the backward pass.
    void save(const Sequence& q, int64_t tile) const {
        if (!p_.states) return;
        const int64_t place = (tiles_before(s_.sequences, q.index, kAttentionTile) + tile) * s_.heads + head_;
        states_.write(p_.states + place * s_.K * s_.V);
        if (p_.gates.present) write_normalizer(p_.gates.states_n, p_.gates.states_m, place);
    }

    void run_tile(const Sequence& q, int64_t time, int64_t steps) {
        const Place at = {q.row, 0, 0, q.start + time, steps};
        uint8_t flags[kAttentionTile];
        const uint8_t* reset = reset_of(s_.sequences, q, time, steps, flags);
        read(at);
        if (p_.gates.present) {
            m_ = gates_.read(p_.gates, head_, at, reset, m_);
            apply_gates(gates_, k_, decay_, s_.K, steps);
            advance_normalizer(q_, k_, gates_, reset, s_.K, steps, n_, PanelTile<T>{}, products_);
            invert_normalizer<T>(gates_, steps, p_.gates.eps, products_, nullptr);
        }
        const Passes passes(steps, kPass, reset);
        fetch({q.row, 0, 0, q.start + time + kAttentionTile, min_of(kAttentionTile, q.steps - time - kAttentionTile)},
              passes.count);
        for (int64_t b = 0; b < states_.blocks(); ++b) {
            T* state = states_.block(b);
            for (int i = 0; i < passes.count; ++i) {
                const int64_t t = passes.start[i];
                if (reset && reset[t])
                    for (int64_t n = 0; n < s_.K * kColumns<T>; n += lanes<T>) store(state + n, vec<T>{});
                const int64_t column = b * kColumns<T>;
                const Pass<T> pass = {q_.at(0, t),
                                      k_.at(0, t),
                                      decay_.at(0, t),
                                      v_.at(column, t),
                                      o_.at(column, t),
                                      v_.line,
                                      o_.line,
                                      p_.bonus ? coefficients_ + t : nullptr,
                                      s_.K};
                if (passes.start[i + 1] - t == kPass)
                    advance_by<T, kPass>(pass, s_.decay, state, upcoming_);
                else
                    advance_by<T, 1>(pass, s_.decay, state, upcoming_);
            }
        }
        if (o_.array) return;
        if (p_.gates.present) scale_steps(o_.panel, s_.V, steps, products_);
        o_.panel.write(p_.o, head_, s_.V, at);
    }

    void read_normalizer(int64_t unit) {
        const Gates<T>& g = p_.gates;
        for (int64_t n = 0; n < s_.K; n += lanes<T>)
            store(n_ + n, g.first_n ? load_up_to(g.first_n + unit * s_.K + n, s_.K - n) : vec<T>{});
        m_ = g.first_m ? g.first_m[unit] : 0;
    }
    void write_normalizer(T* to_n, T* to_m, int64_t place) const {
        for (int64_t n = 0; n < s_.K; n += lanes<T>) store_up_to(to_n + place * s_.K + n, load(n_ + n), s_.K - n);
        to_m[place] = m_;
    }

    void read(const Place& at) {
        read_scaled(p_.q, head_ / s_.per_key, s_.K, at, s_.scale, q_);
        k_.read(p_.k, head_ / s_.per_key, s_.K, at);
        if (!v_.place(p_.v, head_, s_.V, at)) {
            v_.panel.read(p_.v, head_, s_.V, at);
            pad_columns(v_.panel, s_.V, at.steps);
        }
        if (!p_.gates.present) o_.place(p_.o, head_, s_.V, at); // else it is divided by the normaliser
        if (p_.decay.units.data) read_decay(s_, p_.decay, head_, at, decay_);
        if (!p_.bonus) return;
        for (int64_t t = 0; t < at.steps; ++t)
            coefficients_[t] = bonus_product(q_, k_, p_.bonus + head_ * s_.K, s_.K, t);
    }

    // Sets the next tile, which the passes of this one prefetch.
    void fetch(const Place& at, int64_t passes) {
        upcoming_.begin(passes * states_.blocks() * ceil_div(s_.K, kPrefetchRows));
        upcoming_.add<T>(p_.q, head_ / s_.per_key, s_.K, at);
        upcoming_.add<T>(p_.k, head_ / s_.per_key, s_.K, at);
        upcoming_.add<T>(p_.v, head_, s_.V, at);
        upcoming_.add<T>(p_.o, head_, s_.V, at);
        if (s_.decay == Decay::vector) upcoming_.add<T>(p_.decay, head_, s_.K, at);
    }

    void zero_padding(const Sequence& q, int64_t from, int64_t to) {
        if (from >= to) return;
        o_.panel.fill_zero(s_.V, to - from);
        o_.panel.write(p_.o, head_, s_.V, {q.row, 0, 0, q.start + from, to - from});
    }

    const Attention<T>& p_;
    const AttentionShape& s_;
    PanelTile<T> q_, k_, decay_;
    Columns<T> v_, o_;
    Upcoming upcoming_;
    ColumnStates<T> states_;
    GateTile<T> gates_;
    T *coefficients_ = nullptr, *n_ = nullptr, *products_ = nullptr, m_ = 0;
    int64_t head_ = 0;
    size_t bytes_ = 0;
};

template <class T> size_t workspace(const Attention<T>& p, int threads) {
    return size_t(threads) * Forward<T>(p, nullptr).bytes();
}

template <class T> void forward(const Attention<T>& p, Team team) {
    char* memory = static_cast<char*>(p.workspace);
    Forward<T> kernel(p, memory + size_t(team.id) * Forward<T>(p, nullptr).bytes());
    const int64_t units = p.shape.sequences.count * p.shape.heads;
    const int64_t first = units * team.id / team.size, last = units * (team.id + 1) / team.size;
    for (int64_t u = first; u < last; ++u) kernel.run(u, team);
}

template <class T>
constexpr AttentionTable<T> attention_for = {
    workspace<T>,
    forward<T>,
    attention_gradient_workspace<T>,
    attention_gradient<T>,
};

} // namespace

const AttentionKernels attention_kernels = {attention_for<float>, attention_for<double>};

} // namespace fastiter::ssm::FASTITER_LEVEL
