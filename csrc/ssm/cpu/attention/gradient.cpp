// Linear attention, backward.
#include "ssm/cpu/attention/backward.hpp"
#include "ssm/cpu/attention/gates.hpp"
#include "ssm/cpu/attention/visit.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

template <class T> class Backward : public BackwardPass<T, Backward<T>> {
    using Base = BackwardPass<T, Backward<T>>;
    friend Base;
    using Base::q_, Base::k_, Base::v_, Base::d_o_, Base::dq_, Base::dk_, Base::dv_, Base::sum_, Base::decay_,
        Base::ddecay_;
    using Base::W, Base::p_, Base::f_, Base::s_, Base::head_, Base::unit_, Base::position_, Base::upcoming_,
        Base::columns_, Base::clear;

public:
    Backward(const AttentionGradient<T>& p, void* memory) : Backward(p, Arena(memory)) {}

private:
    Backward(const AttentionGradient<T>& p, Arena cut) : Base(p, cut) {
        coefficients_ = cut.take<T>(kAttentionTile);
        products_ = cut.take<T>(kAttentionTile);
        all_dbonus_ = cut.take<T>(Base::most_together() * round_up(s_.K, W));
        if (f_.gates.present) {
            gates_.take(cut);
            n_.take(cut, s_.K);
            n_before_ = cut.take<T>(round_up(s_.K, W));
            all_dn_ = cut.take<T>(Base::most_together() * round_up(s_.K, W));
            for (T** numbers : {&inverse_, &signs_}) *numbers = cut.take<T>(kAttentionTile);
        }
        Base::bytes_ = cut.bytes();
    }

    // Sums of the current head
    T* dbonus() const { return all_dbonus_ + position_ * round_up(s_.K, W); }
    T* dn() const { return all_dn_ + position_ * round_up(s_.K, W); }

    void begin_head() {
        for (int64_t n = 0; n < s_.K; n += W) store(dbonus() + n, vec<T>{});
        if (f_.gates.present) read_vector(p_.dlast_n, unit_, dn());
    }
    void end_head() {
        if (p_.dfirst_n) write_vector(p_.dfirst_n, unit_, dn());
        if (p_.dbonus) write_vector(p_.dbonus, unit_, dbonus());
    }

    // Reads a vector of K numbers from a contiguous (place, K); zeros if it is null.
    void read_vector(const T* from, int64_t place, T* to) const {
        for (int64_t n = 0; n < s_.K; n += W)
            store(to + n, from ? load_up_to(from + place * s_.K + n, s_.K - n) : vec<T>{});
    }
    void write_vector(T* to, int64_t place, const T* from) const {
        for (int64_t n = 0; n < s_.K; n += W) store_up_to(to + place * s_.K + n, load(from + n), s_.K - n);
    }

    void run_tile(const Place& at, const uint8_t* reset, int64_t place) {
        const int64_t steps = at.steps;
        Base::read(at);
        if (f_.bonus) read_bonus(steps);
        Base::fetch_next(shares(steps));
        if (f_.gates.present) begin_gates(at, reset, place);
        if (needs_columns()) visit_all_columns(reset, steps);
        if (needs_rows()) visit_all_rows(reset, steps, place);
        if (f_.gates.present && needs_rows()) add_normalizer(reset, steps);
        if (f_.bonus) add_bonus(steps);
        if (s_.decay == Decay::scalar && needs_rows()) add_rows(ddecay_, s_.K, steps);
        if (f_.gates.present && needs_rows()) write_gates(at, reset);
        Base::write(at);
    }

    void read_bonus(int64_t steps) {
        for (int64_t t = 0; t < steps; ++t) {
            coefficients_[t] = bonus_product(q_, k_, f_.bonus + head_ * s_.K, s_.K, t);
            vec<T> sum{};
            for (int64_t n = 0; n < s_.V; n += W) sum = fma(load(v_.at(n, t)), load(d_o_.at(n, t)), sum);
            products_[t] = sum_of<T>(sum);
        }
    }

    // Number of shares in which the passes of a tile prefetch the next tile
    int64_t shares(int64_t steps) const {
        const int64_t rows = 2 * ceil_div(s_.K, W) * ceil_div(steps, kRowPass) * ceil_div(s_.V, kPrefetchRows);
        const int64_t columns = columns_.blocks() * ceil_div(steps, kPass) * ceil_div(s_.K, kPrefetchRows);
        return (needs_rows() ? rows : 0) + (needs_columns() ? columns : 0);
    }

    bool needs_columns() const { return p_.dv.units.data || p_.dfirst; }
    bool needs_rows() const {
        for (const Heads* x : {&p_.dq, &p_.dk, &p_.ddecay, &p_.d_i, &p_.d_f})
            if (x->units.data) return true;
        return p_.dfirst_n;
    }

    // Computes the gates and the normaliser of a tile; turns the gradient of the output into that of the sum before the
    // division.
    void begin_gates(const Place& at, const uint8_t* reset, int64_t place) {
        const Gates<T>& g = f_.gates;
        gates_.read(g, head_, at, reset, g.states_m[place]);
        apply_gates(gates_, k_, decay_, s_.K, at.steps);
        T* n = dq_.data; // dq is not needed yet
        read_vector(g.states_n, place, n_before_);
        for (int64_t c = 0; c < s_.K; c += W) store(n + c, load(n_before_ + c));
        advance_normalizer(q_, k_, gates_, reset, s_.K, at.steps, n, n_, inverse_);
        invert_normalizer(gates_, at.steps, g.eps, inverse_, signs_);
        scale_steps(d_o_, s_.V, at.steps, inverse_);
    }

    // Adds the contribution of the normaliser. With D the divisor of o, its gradient is
    // -(sum over V of do o / D) = -q dq / D, where dq is still that of the sum; dn and its decay then follow like those
    // of a column of the state.
    void add_normalizer(const uint8_t* reset, int64_t steps) {
        for (int64_t t = steps - 1; t >= 0; --t) {
            vec<T> sum{};
            for (int64_t c = 0; c < s_.K; c += W) sum = fma(load(q_.at(c, t)), load(dq_.at(c, t)), sum);
            const T d_divisor = p_.through_normalizer ? -sum_of<T>(sum) * inverse_[t] : 0, d = d_divisor * signs_[t];
            signs_[t] = d_divisor * T(f_.gates.eps); // the gradient of m: everything but eps is a multiple of e^-m
            const bool is_reset = reset && reset[t];
            for (int64_t c = 0; c < s_.K; c += W) {
                const vec<T> own = fma(load(q_.at(c, t)), broadcast(d), load(dn() + c));
                store(dq_.at(c, t), fma(load(n_.at(c, t)), broadcast(d), load(dq_.at(c, t))));
                store(dk_.at(c, t), load(dk_.at(c, t)) + own);
                const vec<T> before = is_reset ? vec<T>{} : load(t ? n_.at(c, t - 1) : n_before_ + c);
                store(ddecay_.at(c, t), fma(before, own, load(ddecay_.at(c, t))));
                store(dn() + c, is_reset ? vec<T>{} : own * gates_.f[t]);
            }
        }
    }

    // The gradients of the gates, through the logarithms of the decay and of the factor of k, and through m; and the
    // gradient of k
    void write_gates(const Place& at, const uint8_t* reset) {
        T dm = p_.dm[unit_];
        for (int64_t t = at.steps - 1; t >= 0; --t) {
            vec<T> di{};
            for (int64_t c = 0; c < s_.K; c += W) di = fma(load(k_.at(c, t)), load(dk_.at(c, t)), di);
            dm += signs_[t];
            const bool decays = gates_.decays[t] != 0;
            const T d_i = sum_of<T>(di) + (decays ? T(0) : dm),
                    d_lf = *ddecay_.at(0, t) * gates_.f[t] + (decays ? dm : T(0));
            if (!decays || (reset && reset[t])) dm = 0;
            store(sum_.at(0, t), broadcast(d_i));
            store(ddecay_.at(0, t), broadcast(d_lf * gates_.slope[t]));
        }
        p_.dm[unit_] = dm;
        if (p_.d_i.units.data) sum_.write(p_.d_i, head_, 1, at);
        if (p_.d_f.units.data) ddecay_.write(p_.d_f, head_, 1, at);
        scale_steps(dk_, s_.K, at.steps, gates_.i);
    }

    void visit_all_columns(const uint8_t* reset, int64_t steps) {
        const Passes passes(steps, kPass, reset);
        for (int64_t b = 0; b < columns_.blocks(); ++b) {
            T* P = columns_.block(b);
            for (int i = passes.count - 1; i >= 0; --i) {
                const int64_t t = passes.start[i], column = b * kColumns<T>;
                const ColumnPass<T> pass = {
                    q_.at(0, t),       k_.at(0, t), decay_.at(0, t), d_o_.at(column, t), dv_.at(column, t),
                    coefficients_ + t, s_.K};
                with_form(s_.decay, f_.bonus, [&]<Decay D, bool Before>() {
                    (passes.start[i + 1] - t == kPass ? visit_columns<T, kPass, D, Before>
                                                      : visit_columns<T, 1, D, Before>)(pass, P, this->upcoming_);
                });
                if (reset && reset[t]) clear(P, s_.K * kColumns<T>);
            }
        }
    }

    void visit_all_rows(const uint8_t* reset, int64_t steps, int64_t place) {
        with_form(s_.decay, f_.bonus, [&]<Decay D, bool Before>() {
            constexpr int C = kRowPass;
            auto recompute = [&](bool full, int64_t n, int64_t t, const T* before, T* after) {
                (full ? recompute_rows<T, C, D, Before> : recompute_rows<T, 1, D, Before>)(row_pass(n, t), before,
                                                                                           after, upcoming_);
            };
            auto visit = [&](bool full, int64_t n, int64_t t, const T* states, T* P) {
                (full ? visit_rows<T, C, D, Before> : visit_rows<T, 1, D, Before>)(row_pass(n, t), states, P,
                                                                                   upcoming_);
            };
            this->visit_rows_of(Passes(steps, C, reset), reset, place, recompute, visit);
        });
    }

    RowPass<T> row_pass(int64_t n, int64_t t) const {
        const int64_t unit = s_.decay == Decay::vector ? n : 0;
        return {q_.at(n, t),  k_.at(n, t),  decay_.at(unit, t), v_.at(0, t), d_o_.at(0, t),
                dq_.at(n, t), dk_.at(n, t), ddecay_.at(n, t),   s_.V};
    }

    // dq += bonus k (v . do), dk += bonus q (v . do), dbonus += q k (v . do)
    void add_bonus(int64_t steps) {
        for (int64_t n = 0; n < s_.K; n += W) {
            const vec<T> bonus = load_up_to(f_.bonus + head_ * s_.K + n, s_.K - n);
            vec<T> sum = load(dbonus() + n);
            for (int64_t t = 0; t < steps; ++t) {
                const vec<T> q = load(q_.at(n, t)), k = load(k_.at(n, t)) * products_[t];
                store(dq_.at(n, t), fma(bonus, k, load(dq_.at(n, t))));
                store(dk_.at(n, t), fma(bonus * products_[t], q, load(dk_.at(n, t))));
                sum = fma(q, k, sum);
            }
            store(dbonus() + n, sum);
        }
    }

    void zero_others(const Place& at) {
        for (const Heads* x : {&p_.d_i, &p_.d_f})
            if (x->units.data) dq_.write(*x, head_, 1, at);
    }

    GateTile<T> gates_;
    PanelTile<T> n_; // n after each step
    T *n_before_ = nullptr, *all_dn_ = nullptr, *inverse_ = nullptr, *signs_ = nullptr;
    T *coefficients_ = nullptr, *products_ = nullptr, *all_dbonus_ = nullptr;
};

} // namespace

template <class T> size_t attention_gradient_workspace(const AttentionGradient<T>& p, int threads) {
    return size_t(threads) * Backward<T>(p, nullptr).bytes();
}

template <class T> void attention_gradient(const AttentionGradient<T>& p, Team team) {
    run_backward<Backward<T>>(p, p.forward.shape, p.workspace, team);
}

template size_t attention_gradient_workspace(const AttentionGradient<float>&, int);
template size_t attention_gradient_workspace(const AttentionGradient<double>&, int);
template void attention_gradient(const AttentionGradient<float>&, Team);
template void attention_gradient(const AttentionGradient<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
