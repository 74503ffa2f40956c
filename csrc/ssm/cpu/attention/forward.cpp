// Linear attention, forward: one pass over the rows of the state performs several steps, whose inputs v and outputs o
// stay in registers; every element goes through the same operations in the same order as in the loop over the steps.
#include "ssm/cpu/attention/forward.hpp"
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
            // The panels of a tile and a block of the state fill the first level: the next tile would displace them.
            if (n % kPrefetchRows == 0) upcoming.prefetch_share<2>();
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

template <class T> class Forward : public ForwardPass<T, Forward<T>> {
    using Base = ForwardPass<T, Forward<T>>;
    friend Base;
    using Base::f_, Base::s_, Base::q_, Base::k_, Base::decay_, Base::v_, Base::o_, Base::upcoming_, Base::states_,
        Base::head_, Base::position_;

public:
    Forward(const Attention<T>& p, void* memory) : Forward(p, Arena(memory)) {}

private:
    Forward(const Attention<T>& p, Arena cut) : Base(p, cut) {
        coefficients_ = cut.take<T>(kAttentionTile);
        if (p.gates.present) {
            gates_.take(cut);
            all_n_ = cut.take<T>(Base::most_together() * round_up(s_.K, lanes<T>));
            all_m_ = cut.take<T>(Base::most_together());
            products_ = cut.take<T>(kAttentionTile);
        }
        Base::bytes_ = cut.bytes();
    }

    void run_tile(const Place& at, const uint8_t* reset) {
        read(at);
        if (f_.gates.present) {
            m() = gates_.read(f_.gates, head_, at, reset, m());
            apply_gates(gates_, k_, decay_, s_.K, at.steps);
            advance_normalizer(q_, k_, gates_, reset, s_.K, at.steps, n(), PanelTile<T>{}, products_);
            invert_normalizer<T>(gates_, at.steps, f_.gates.eps, products_, nullptr);
        }
        const Passes passes(at.steps, kPass, reset);
        Base::fetch_next(passes.count * states_.blocks() * ceil_div(s_.K, kPrefetchRows));
        for (int64_t b = 0; b < states_.blocks(); ++b) run_block(b, passes, reset);
        if (o_.array) return;
        if (f_.gates.present) scale_steps(o_.panel, s_.V, at.steps, products_);
        o_.panel.write(f_.o, head_, s_.V, at);
    }

    void run_block(int64_t b, const Passes& passes, const uint8_t* reset) {
        T* state = states_.block(b);
        for (int i = 0; i < passes.count; ++i) {
            const int64_t t = passes.start[i];
            if (reset && reset[t])
                for (int64_t c = 0; c < s_.K * kColumns<T>; c += lanes<T>) store(state + c, vec<T>{});
            const int64_t column = b * kColumns<T>;
            const Pass<T> pass = {q_.at(0, t),
                                  k_.at(0, t),
                                  decay_.at(0, t),
                                  v_.at(column, t),
                                  o_.at(column, t),
                                  v_.line,
                                  o_.line,
                                  f_.bonus ? coefficients_ + t : nullptr,
                                  s_.K};
            if (passes.start[i + 1] - t == kPass)
                advance_by<T, kPass>(pass, s_.decay, state, upcoming_);
            else
                advance_by<T, 1>(pass, s_.decay, state, upcoming_);
        }
    }

    void read(const Place& at) {
        Base::read(at);
        if (!f_.gates.present) o_.place(f_.o, head_, s_.V, at); // else it is divided by the normaliser
        if (!f_.bonus) return;
        for (int64_t t = 0; t < at.steps; ++t)
            coefficients_[t] = bonus_product(q_, k_, f_.bonus + head_ * s_.K, s_.K, t);
    }

    // The vector and the maximum of mLSTM's current head
    T* n() const { return all_n_ + position_ * round_up(s_.K, lanes<T>); }
    T& m() const { return all_m_[position_]; }

    void begin_head(int64_t unit) {
        const Gates<T>& g = f_.gates;
        if (!g.present) return;
        for (int64_t c = 0; c < s_.K; c += lanes<T>)
            store(n() + c, g.first_n ? load_up_to(g.first_n + unit * s_.K + c, s_.K - c) : vec<T>{});
        m() = g.first_m ? g.first_m[unit] : 0;
    }
    void end_head(int64_t unit) const { write_normalizer(f_.gates.last_n, f_.gates.last_m, unit); }
    void save_others(int64_t place) const { write_normalizer(f_.gates.states_n, f_.gates.states_m, place); }
    void write_normalizer(T* to_n, T* to_m, int64_t place) const {
        if (!f_.gates.present) return;
        for (int64_t c = 0; c < s_.K; c += lanes<T>) store_up_to(to_n + place * s_.K + c, load(n() + c), s_.K - c);
        to_m[place] = m();
    }

    GateTile<T> gates_;
    T *coefficients_ = nullptr, *all_n_ = nullptr, *all_m_ = nullptr, *products_ = nullptr;
};

template <class T> size_t workspace(const Attention<T>& p, int threads) {
    return size_t(threads) * Forward<T>(p, nullptr).bytes();
}

template <class T> void forward(const Attention<T>& p, Team team) {
    run_forward<Forward<T>>(p, p.shape, p.workspace, team);
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
