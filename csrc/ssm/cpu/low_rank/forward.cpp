// Linear attention with a correction of rank one, forward: the delta rule with any decay, RWKV-7.
#include "ssm/cpu/attention/forward.hpp"
#include "ssm/cpu/low_rank/low_rank.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

template <class T> size_t low_rank_gradient_workspace(const LowRankGradient<T>&, int threads);
template <class T> void low_rank_gradient(const LowRankGradient<T>&, Team);

namespace {

template <class T> class Forward : public ForwardPass<T, Forward<T>> {
    using Base = ForwardPass<T, Forward<T>>;
    friend Base;
    using Base::f_, Base::s_, Base::q_, Base::k_, Base::decay_, Base::v_, Base::o_, Base::upcoming_, Base::states_,
        Base::head_;

public:
    Forward(const LowRank<T>& p, void* memory) : Forward(p, Arena(memory)) {}

private:
    Forward(const LowRank<T>& p, Arena cut) : Base(p.attention, cut), p_(p) {
        for (PanelTile<T>* tile : {&a_, &b_}) tile->take(cut, s_.K);
        w_.panel.take(cut, s_.V);
        current_w_ = cut.take<T>(kBlocksTogether * kColumns<T>);
        beta_ = cut.take<T>(kAttentionTile);
        Base::bytes_ = cut.bytes();
    }

    void run_tile(const Place& at, const uint8_t* reset) {
        read(at);
        Base::fetch_next(at.steps * ceil_div(states_.blocks(), kBlocksTogether) * ceil_div(s_.K, kPrefetchRows));
        with_decay(s_.decay, [&]<Decay D>() {
            is_delta() ? run_blocks<D, true>(reset, at.steps) : run_blocks<D, false>(reset, at.steps);
        });
        if (!o_.array) o_.panel.write(f_.o, head_, s_.V, at);
        if (p_.w.units.data && !w_.array) w_.panel.write(p_.w, head_, s_.V, at);
    }

    template <Decay D, bool Delta> void run_blocks(const uint8_t* reset, int64_t steps) {
        int64_t b = 0;
        for (; b + kBlocksTogether <= states_.blocks(); b += kBlocksTogether)
            run_steps<kBlocksTogether, D, Delta>(b, reset, steps);
        for (; b < states_.blocks(); ++b) run_steps<1, D, Delta>(b, reset, steps);
    }

    template <int Blocks, Decay D, bool Delta> void run_steps(int64_t b, const uint8_t* reset, int64_t steps) {
        const int64_t column = b * kColumns<T>, state_block = s_.K * kColumns<T>;
        T* state = states_.block(b);
        read_state<T, Blocks>(a_.at(0, 0), s_.K, state, state_block, current_w_);
        for (int64_t t = 0; t < steps; ++t) {
            if (reset && reset[t]) {
                clear(state, Blocks * state_block);
                clear(current_w_, Blocks * kColumns<T>);
            }
            if (p_.w.units.data)
                for (int64_t c = 0; c < Blocks * kColumns<T>; c += lanes<T>)
                    store(w_.at(column, t) + c, load(current_w_ + c));
            const StepPass<T> pass = {q_.at(0, t),
                                      k_.at(0, t),
                                      b_.at(0, t),
                                      decay_.at(0, t),
                                      a_.at(0, t + 1 < steps ? t + 1 : t),
                                      v_.at(column, t),
                                      o_.at(column, t),
                                      current_w_,
                                      s_.K,
                                      state_block,
                                      beta_[t]};
            advance_corrected<T, Blocks, D, Delta>(pass, state, upcoming_);
        }
    }

    bool is_delta() const { return p_.beta.units.data; }

    static void clear(T* data, int64_t count) {
        for (int64_t i = 0; i < count; i += lanes<T>) store(data + i, vec<T>{});
    }

    void read(const Place& at) {
        Base::read(at);
        if (is_delta()) {
            read_numbers(p_.beta, head_, at, beta_);
            correct_keys(s_, k_, decay_, beta_, at.steps, a_);
        } else {
            a_.read(p_.a, head_, s_.K, at);
            b_.read(p_.b, head_, s_.K, at);
        }
        o_.place(f_.o, head_, s_.V, at);
        if (p_.w.units.data) w_.place(p_.w, head_, s_.V, at);
    }

    void fetch_others(int64_t head, const Place& at) {
        for (const Heads* x : {&p_.a, &p_.b}) upcoming_.template add<T>(*x, head, s_.K, at);
        upcoming_.template add<T>(p_.w, head, s_.V, at);
    }

    void zero_others(const Place& at) const {
        if (p_.w.units.data) o_.panel.write(p_.w, head_, s_.V, at);
    }

    const LowRank<T>& p_;
    PanelTile<T> a_, b_;
    Columns<T> w_;
    T *current_w_ = nullptr, *beta_ = nullptr;
};

template <class T> size_t workspace(const LowRank<T>& p, int threads) {
    return size_t(threads) * Forward<T>(p, nullptr).bytes();
}

template <class T> void forward(const LowRank<T>& p, Team team) {
    run_forward<Forward<T>>(p, p.attention.shape, p.attention.workspace, team);
}

template <class T>
constexpr LowRankTable<T> low_rank_for = {
    workspace<T>,
    forward<T>,
    low_rank_gradient_workspace<T>,
    low_rank_gradient<T>,
};

} // namespace

const LowRankKernels low_rank_kernels = {low_rank_for<float>, low_rank_for<double>};

} // namespace fastiter::ssm::FASTITER_LEVEL
