// Linear attention with a correction of rank one, backward. With P the gradient of the state after a step:
//     P += q do^T;  dw = P^T b;  dv = P^T k;  dk = P v;  db = P w;  da = S' dw;  ddecay = rows of S' * P;  dq = S do;
//     P = decay P + a dw^T.
// dw and dv are computed step by step with columns in the lanes; the others, given dw, in passes of several steps with
// rows in the lanes.
#include "ssm/cpu/attention/backward.hpp"
#include "ssm/cpu/low_rank/low_rank.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

template <class T> class Backward : public BackwardPass<T, Backward<T>> {
    using Base = BackwardPass<T, Backward<T>>;
    friend Base;
    using Base::q_, Base::k_, Base::v_, Base::d_o_, Base::dq_, Base::dk_, Base::dv_, Base::sum_, Base::decay_,
        Base::ddecay_;
    using Base::W, Base::s_, Base::head_, Base::upcoming_, Base::columns_, Base::clear;

public:
    Backward(const LowRankGradient<T>& p, void* memory) : Backward(p, Arena(memory)) {}

private:
    Backward(const LowRankGradient<T>& p, Arena cut) : Base(p.attention, cut), own_(p) {
        for (PanelTile<T>* tile : {&a_, &b_, &da_, &db_}) tile->take(cut, s_.K);
        for (PanelTile<T>* tile : {&w_, &dw_}) tile->take(cut, s_.V);
        if (p.beta.units.data) {
            b_ = k_;
            input_v_.take(cut, s_.V);
            beta_ = cut.take<T>(kAttentionTile);
        }
        later_dw_ = cut.take<T>(kBlocksTogether * kColumns<T>);
        Base::bytes_ = cut.bytes();
    }

    void run_tile(const Place& at, const uint8_t* reset, int64_t place) {
        const int64_t steps = at.steps;
        Base::read(at);
        if (own_.beta.units.data)
            read_delta(at);
        else {
            a_.read(own_.a, head_, s_.K, at);
            b_.read(own_.b, head_, s_.K, at);
        }
        w_.read(own_.w, head_, s_.V, at);
        const int64_t rows = 2 * ceil_div(s_.K, W) * ceil_div(steps, kCorrectedPass) * ceil_div(s_.V, kPrefetchRows);
        const int64_t columns = ceil_div(columns_.blocks(), kBlocksTogether) * steps;
        Base::fetch_next(rows + columns * ceil_div(s_.K, kPrefetchRows));
        visit_all_columns(reset, steps);
        visit_all_rows(reset, steps, place);
        if (own_.beta.units.data) leave_delta(at);
        if (own_.da.units.data) da_.write(own_.da, head_, s_.K, at);
        if (own_.db.units.data) db_.write(own_.db, head_, s_.K, at);
        if (s_.decay == Decay::scalar) add_rows(ddecay_, s_.K, steps);
        Base::write(at);
    }

    // Computes a = -beta decay k, b = k, and beta v in place of v.
    void read_delta(const Place& at) {
        read_numbers(own_.beta, head_, at, beta_);
        correct_keys(s_, k_, decay_, beta_, at.steps, a_);
        for (int64_t n = 0; n < s_.V; n += W)
            for (int64_t t = 0; t < at.steps; ++t) {
                const vec<T> v = load(v_.at(n, t));
                store(input_v_.at(n, t), v);
                store(v_.at(n, t), v * beta_[t]);
            }
    }

    // The gradients of k, v, beta and decay from those of a, b and beta v
    void leave_delta(const Place& at) {
        for (int64_t t = 0; t < at.steps; ++t) {
            const T beta = beta_[t];
            vec<T> dbeta{};
            for (int64_t n = 0; n < s_.V; n += W) {
                const vec<T> dv = load(dv_.at(n, t));
                dbeta = fma(dv, load(input_v_.at(n, t)), dbeta);
                store(dv_.at(n, t), dv * beta);
            }
            for (int64_t n = 0; n < s_.K; n += W) {
                const vec<T> da = load(da_.at(n, t)), k = load(k_.at(n, t)), decay = decay_at(n, t);
                dbeta = fma(-da, decay * k, dbeta);
                store(dk_.at(n, t), fma(da * -beta, decay, load(dk_.at(n, t)) + load(db_.at(n, t))));
                store(ddecay_.at(n, t), fma(da * -beta, k, load(ddecay_.at(n, t))));
            }
            store(sum_.at(0, t), broadcast(sum_of<T>(dbeta)));
        }
        if (own_.dbeta.units.data) sum_.write(own_.dbeta, head_, 1, at);
    }
    vec<T> decay_at(int64_t n, int64_t t) const {
        if (s_.decay == Decay::none) return broadcast(T(1));
        return s_.decay == Decay::vector ? load(decay_.at(n, t)) : broadcast(*decay_.at(0, t));
    }

    void fetch_others(int64_t head, const Place& at) {
        for (const Heads* x : {&own_.a, &own_.b, &own_.da, &own_.db}) upcoming_.template add<T>(*x, head, s_.K, at);
        upcoming_.template add<T>(own_.w, head, s_.V, at);
    }

    void zero_others(const Place& at) {
        for (const Heads* x : {&own_.da, &own_.db})
            if (x->units.data) dq_.write(*x, head_, s_.K, at);
        if (own_.dbeta.units.data) dq_.write(own_.dbeta, head_, 1, at);
    }

    void visit_all_columns(const uint8_t* reset, int64_t steps) {
        with_decay(s_.decay, [&]<Decay D>() {
            int64_t b = 0;
            for (; b + kBlocksTogether <= columns_.blocks(); b += kBlocksTogether)
                visit_blocks<kBlocksTogether, D>(b, reset, steps);
            for (; b < columns_.blocks(); ++b) visit_blocks<1, D>(b, reset, steps);
        });
        // With a reset, the step reads no state.
        for (int64_t t = 0; reset && t < steps; ++t)
            if (reset[t])
                for (int64_t n = 0; n < s_.V; n += W) store(dw_.at(n, t), vec<T>{});
    }

    template <int Blocks, Decay D> void visit_blocks(int64_t b, const uint8_t* reset, int64_t steps) {
        const int64_t column = b * kColumns<T>, block = s_.K * kColumns<T>;
        T* P = columns_.block(b);
        for (int64_t t = steps - 1; t >= 0; --t) {
            const int64_t later = t + 1;
            const bool is_cut = later < steps && reset && reset[later], follows = later < steps && !is_cut;
            if (is_cut) clear(P, Blocks * block);
            const StepGradient<T> pass = {q_.at(0, t),
                                          k_.at(0, t),
                                          b_.at(0, t),
                                          follows ? decay_.at(0, later) : nullptr,
                                          follows ? a_.at(0, later) : nullptr,
                                          d_o_.at(column, t),
                                          dv_.at(column, t),
                                          dw_.at(column, t),
                                          later_dw_,
                                          s_.K,
                                          block};
            (follows ? visit_corrected<T, Blocks, D, true> : visit_corrected<T, Blocks, D, false>)(pass, P, upcoming_);
        }
        if (reset && reset[0]) return clear(P, Blocks * block);
        for (int i = 0; i < Blocks; ++i)
            leave_step<T, D>(decay_.at(0, 0), a_.at(0, 0), s_.K, later_dw_ + i * kColumns<T>, P + i * block);
    }

    void visit_all_rows(const uint8_t* reset, int64_t steps, int64_t place) {
        with_decay(s_.decay, [&]<Decay D>() {
            constexpr int C = kCorrectedPass;
            auto recompute = [&](bool full, int64_t n, int64_t t, const T* before, T* after) {
                (full ? recompute_corrected<T, C, D> : recompute_corrected<T, 1, D>)(row_pass(n, t), before, after,
                                                                                     upcoming_);
            };
            auto visit = [&](bool full, int64_t n, int64_t t, const T* states, T* P) {
                (full ? visit_corrected_rows<T, C, D> : visit_corrected_rows<T, 1, D>)(row_pass(n, t), states, P,
                                                                                       upcoming_);
            };
            this->visit_rows_of(Passes(steps, C, reset), reset, place, recompute, visit);
        });
    }

    CorrectedRows<T> row_pass(int64_t n, int64_t t) const {
        const int64_t unit = s_.decay == Decay::vector ? n : 0;
        return {q_.at(n, t),  k_.at(n, t),  a_.at(n, t),   b_.at(n, t),      decay_.at(unit, t),
                v_.at(0, t),  w_.at(0, t),  d_o_.at(0, t), dw_.at(0, t),     dq_.at(n, t),
                dk_.at(n, t), da_.at(n, t), db_.at(n, t),  ddecay_.at(n, t), s_.V};
    }

    const LowRankGradient<T>& own_;
    PanelTile<T> a_, b_, w_, da_, db_, dw_, input_v_;
    T *later_dw_ = nullptr, *beta_ = nullptr;
};

} // namespace

template <class T> size_t low_rank_gradient_workspace(const LowRankGradient<T>& p, int threads) {
    return size_t(threads) * Backward<T>(p, nullptr).bytes();
}

template <class T> void low_rank_gradient(const LowRankGradient<T>& p, Team team) {
    run_backward<Backward<T>>(p, p.attention.forward.shape, p.attention.workspace, team);
}

template size_t low_rank_gradient_workspace(const LowRankGradient<float>&, int);
template size_t low_rank_gradient_workspace(const LowRankGradient<double>&, int);
template void low_rank_gradient(const LowRankGradient<float>&, Team);
template void low_rank_gradient(const LowRankGradient<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
