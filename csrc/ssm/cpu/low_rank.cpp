// Linear attention with a correction of rank one, forward: the delta rule with any decay, RWKV-7.
#include "ssm/cpu/low_rank.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

template <class T> size_t low_rank_gradient_workspace(const LowRankGradient<T>&, int threads);
template <class T> void low_rank_gradient(const LowRankGradient<T>&, Team);

namespace {

template <class T> class Forward {
public:
    Forward(const LowRank<T>& p, void* memory) : p_(p), f_(p.attention), s_(p.attention.shape) {
        Cutter cut(memory);
        for (PanelTile<T>* tile : {&q_, &k_, &a_, &b_}) tile->take(cut, s_.K);
        decay_.take(cut, decay_units(s_));
        for (PanelTile<T>* tile : {&v_, &o_, &w_}) tile->take(cut, s_.V);
        states_.take(cut, s_.K, s_.V);
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }

    // Unit: (sequence, value head)
    void run(int64_t unit) {
        const Sequence q = sequence(s_.sequences, unit / s_.heads);
        head_ = unit % s_.heads;
        const int64_t size = s_.K * s_.V;
        states_.read(f_.first ? f_.first + unit * size : nullptr);
        for (int64_t time = 0; time < q.padded; time += kAttentionTile) {
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
        fetch({q.row, 0, 0, at.time + kAttentionTile, min_of(kAttentionTile, q.steps - time - kAttentionTile)});
        uint8_t flags[kAttentionTile];
        const uint8_t* reset = reset_of(s_.sequences, q, time, steps, flags);
        for (int64_t b = 0; b < states_.blocks(); ++b) {
            const int64_t column = b * kColumns<T>;
            T* state = states_.block(b);
            vec<T> w[kColumnVectors];
            read_state(a_.at(0, 0), s_.K, state, w);
            for (int64_t t = 0; t < steps; ++t) {
                if (reset && reset[t]) clear(state, w);
                for (int c = 0; c < kColumnVectors; ++c) store(w_.at(column, t) + c * lanes<T>, w[c]);
                const int64_t next = t + 1 < steps ? t + 1 : t;
                const StepPass<T> pass = {q_.at(0, t),    k_.at(0, t),      b_.at(0, t),      decay_.at(0, t),
                                          a_.at(0, next), v_.at(column, t), o_.at(column, t), s_.K};
                with_decay(s_.decay, [&]<Decay D>() { advance_corrected<T, D>(pass, state, w); });
            }
        }
        o_.write(f_.o, head_, s_.V, at);
        if (p_.w.units.data) w_.write(p_.w, head_, s_.V, at);
    }

    void clear(T* state, vec<T>* w) const {
        for (int64_t n = 0; n < s_.K * kColumns<T>; n += lanes<T>) store(state + n, vec<T>{});
        for (int c = 0; c < kColumnVectors; ++c) w[c] = vec<T>{};
    }

    void read(const Place& at) {
        q_.read(f_.q, head_ / s_.per_key, s_.K, at);
        k_.read(f_.k, head_ / s_.per_key, s_.K, at);
        a_.read(p_.a, head_, s_.K, at);
        b_.read(p_.b, head_, s_.K, at);
        v_.read(f_.v, head_, s_.V, at);
        pad_columns(v_, s_.V, at.steps);
        scale_tile(q_, s_.K, at.steps, s_.scale);
        read_decay(s_, f_.decay, head_, at, decay_);
    }

    // Prefetches a tile.
    void fetch(const Place& at) const {
        prefetch_heads<T>(f_.q, head_ / s_.per_key, s_.K, at);
        prefetch_heads<T>(f_.k, head_ / s_.per_key, s_.K, at);
        prefetch_heads<T>(p_.a, head_, s_.K, at);
        prefetch_heads<T>(p_.b, head_, s_.K, at);
        prefetch_heads<T>(f_.v, head_, s_.V, at);
        prefetch_heads<T>(f_.o, head_, s_.V, at);
        if (s_.decay == Decay::vector) prefetch_heads<T>(f_.decay, head_, s_.K, at);
    }

    void zero_padding(const Sequence& q, int64_t from, int64_t to) {
        if (from >= to) return;
        const Place at = {q.row, 0, 0, q.start + from, to - from};
        o_.fill_zero(s_.V, at.steps);
        o_.write(f_.o, head_, s_.V, at);
        if (p_.w.units.data) o_.write(p_.w, head_, s_.V, at);
    }

    const LowRank<T>& p_;
    const Attention<T>& f_;
    const AttentionShape& s_;
    PanelTile<T> q_, k_, a_, b_, decay_, v_, o_, w_;
    ColumnStates<T> states_;
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
    for (int64_t u = first; u < last; ++u) kernel.run(u);
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
