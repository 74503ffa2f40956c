// Linear attention with a correction of rank one, forward: the delta rule with any decay, RWKV-7.
#include "ssm/cpu/low_rank/low_rank.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

template <class T> size_t low_rank_gradient_workspace(const LowRankGradient<T>&, int threads);
template <class T> void low_rank_gradient(const LowRankGradient<T>&, Team);

namespace {

template <class T> class Forward {
public:
    Forward(const LowRank<T>& p, void* memory) : p_(p), f_(p.attention), s_(p.attention.shape) {
        Arena cut(memory);
        for (PanelTile<T>* tile : {&q_, &k_, &a_, &b_}) tile->take(cut, s_.K);
        decay_.take(cut, decay_units(s_));
        for (Columns<T>* tile : {&v_, &o_, &w_}) tile->panel.take(cut, s_.V);
        current_w_ = cut.take<T>(kBlocksTogether * kColumns<T>);
        beta_ = cut.take<T>(kAttentionTile);
        states_.take(cut, s_.K, s_.V);
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }

    // Unit: (sequence, value head)
    void run(int64_t unit, Team team) {
        const Sequence q = sequence(s_.sequences, unit / s_.heads);
        head_ = unit % s_.heads;
        const int64_t size = s_.K * s_.V;
        states_.read(f_.first ? f_.first + unit * size : nullptr);
        for (int64_t time = 0; time < q.padded; time += kAttentionTile) {
            if (has_to_stop(team, kAttentionTile * size)) return;
            const int64_t steps = min_of(kAttentionTile, q.steps - time);
            if (steps > 0) {
                const int64_t tile = tiles_before(s_.sequences, q.index, kAttentionTile) + time / kAttentionTile;
                if (f_.states) states_.write(f_.states + (tile * s_.heads + head_) * size);
                run_tile(q, time, steps);
            }
            if (steps < kAttentionTile)
                zero_padding(q, time + max_of(steps, 0), min_of(time + kAttentionTile, q.padded));
        }
        states_.write(f_.last + unit * size);
    }

private:
    void run_tile(const Sequence& q, int64_t time, int64_t steps) {
        const Place at = {q.row, 0, 0, q.start + time, steps};
        read(at);
        const int64_t next = time + kAttentionTile;
        fetch({q.row, 0, 0, q.start + next, min_of(kAttentionTile, q.steps - next)}, steps);
        uint8_t flags[kAttentionTile];
        const uint8_t* reset = reset_of(s_.sequences, q, time, steps, flags);
        with_decay(s_.decay, [&]<Decay D>() {
            is_delta() ? run_blocks<D, true>(reset, steps) : run_blocks<D, false>(reset, steps);
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
        read_scaled(f_.q, head_ / s_.per_key, s_.K, at, s_.scale, q_);
        k_.read(f_.k, head_ / s_.per_key, s_.K, at);
        read_decay(s_, f_.decay, head_, at, decay_);
        if (is_delta()) {
            read_numbers(p_.beta, head_, at, beta_);
            correct_keys(s_, k_, decay_, beta_, at.steps, a_);
        } else {
            a_.read(p_.a, head_, s_.K, at);
            b_.read(p_.b, head_, s_.K, at);
        }
        if (!v_.place(f_.v, head_, s_.V, at)) {
            v_.panel.read(f_.v, head_, s_.V, at);
            pad_columns(v_.panel, s_.V, at.steps);
        }
        o_.place(f_.o, head_, s_.V, at);
        if (p_.w.units.data) w_.place(p_.w, head_, s_.V, at);
    }

    // Sets the next tile, which the passes of this one prefetch.
    void fetch(const Place& at, int64_t steps) {
        upcoming_.begin(steps * ceil_div(states_.blocks(), kBlocksTogether) * ceil_div(s_.K, kPrefetchRows));
        upcoming_.add<T>(f_.q, head_ / s_.per_key, s_.K, at);
        upcoming_.add<T>(f_.k, head_ / s_.per_key, s_.K, at);
        for (const Heads* x : {&p_.a, &p_.b}) upcoming_.add<T>(*x, head_, s_.K, at);
        for (const Heads* x : {&f_.v, &f_.o, &p_.w}) upcoming_.add<T>(*x, head_, s_.V, at);
        if (s_.decay == Decay::vector) upcoming_.add<T>(f_.decay, head_, s_.K, at);
    }

    void zero_padding(const Sequence& q, int64_t from, int64_t to) {
        if (from >= to) return;
        const Place at = {q.row, 0, 0, q.start + from, to - from};
        o_.panel.fill_zero(s_.V, at.steps);
        o_.panel.write(f_.o, head_, s_.V, at);
        if (p_.w.units.data) o_.panel.write(p_.w, head_, s_.V, at);
    }

    const LowRank<T>& p_;
    const Attention<T>& f_;
    const AttentionShape& s_;
    PanelTile<T> q_, k_, a_, b_, decay_;
    Columns<T> v_, o_, w_;
    Upcoming upcoming_;
    ColumnStates<T> states_;
    T *current_w_ = nullptr, *beta_ = nullptr;
    int64_t head_ = 0;
    size_t bytes_ = 0;
};

template <class T> size_t workspace(const LowRank<T>& p, int threads) {
    return size_t(threads) * Forward<T>(p, nullptr).bytes();
}

template <class T> void forward(const LowRank<T>& p, Team team) {
    char* memory = static_cast<char*>(p.attention.workspace);
    Forward<T> kernel(p, memory + size_t(team.id) * Forward<T>(p, nullptr).bytes());
    const int64_t units = p.attention.shape.sequences.count * p.attention.shape.heads;
    const int64_t first = units * team.id / team.size, last = units * (team.id + 1) / team.size;
    for (int64_t u = first; u < last; ++u) kernel.run(u, team);
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
