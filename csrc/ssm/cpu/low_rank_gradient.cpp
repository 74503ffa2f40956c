// Linear attention with a correction of rank one, backward. With P the gradient of the state after a step:
//     P += q do^T;  dw = P^T b;  dv = P^T k;  dk = P v;  db = P w;  da = S' dw;  ddecay = rows of S' * P;  dq = S do;
//     P = decay P + a dw^T.
// dw and dv come from a pass with the columns in the lanes, step by step; the others from passes of several steps with
// the rows there, for which dw is known.
#include "ssm/cpu/low_rank.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

template <class T> class Backward {
    static constexpr int W = lanes<T>;

public:
    Backward(const LowRankGradient<T>& p, void* memory) : p_(p), f_(p.forward.attention), s_(f_.shape) {
        Cutter cut(memory);
        for (PanelTile<T>* tile : {&q_, &k_, &a_, &b_, &dq_, &dk_, &da_, &db_, &ddecay_, &sum_}) tile->take(cut, s_.K);
        decay_.take(cut, decay_units(s_));
        for (PanelTile<T>* tile : {&v_, &w_, &d_o_, &dv_, &dw_}) tile->take(cut, s_.V);
        columns_.take(cut, s_.K, s_.V);
        rows_ = cut.take<T>(ceil_div(s_.K, W) * s_.V * W);
        states_ = cut.take<T>((kAttentionTile + 1) * s_.V * W);
        bytes_ = cut.bytes();
    }
    size_t bytes() const { return bytes_; }

    // Unit: (sequence, head of q and k), whose value heads follow one another and add to the same dq and dk
    void run(int64_t unit) {
        const int64_t key_heads = s_.heads / s_.per_key;
        const Sequence q = sequence(s_.sequences, unit / key_heads);
        for (int64_t i = 0; i < s_.per_key; ++i) {
            head_ = unit % key_heads * s_.per_key + i;
            is_first_ = i == 0;
            run_head(q);
        }
    }

private:
    void run_head(const Sequence& q) {
        const int64_t size = s_.K * s_.V, state = (q.index * s_.heads + head_) * size;
        const T* dlast = p_.dlast ? p_.dlast + state : nullptr;
        columns_.read(dlast);
        for (int64_t n = 0; n < s_.K; n += W) {
            T* rows = rows_ + n * s_.V;
            if (dlast)
                read_tile(matrix(dlast), {0, n, min_of(W, s_.K - n), 0, s_.V}, rows);
            else
                clear(rows, s_.V * W);
        }
        for (int64_t time = (ceil_div(q.padded, kAttentionTile) - 1) * kAttentionTile; time >= 0;
             time -= kAttentionTile) {
            const int64_t steps = min_of(kAttentionTile, q.steps - time);
            if (steps < kAttentionTile)
                zero_padding(q, time + max_of(steps, 0), min_of(time + kAttentionTile, q.padded));
            if (steps > 0) run_tile(q, time, steps);
        }
        if (p_.dfirst) columns_.write(p_.dfirst + state);
    }

    void run_tile(const Sequence& q, int64_t time, int64_t steps) {
        const Place at = {q.row, 0, 0, q.start + time, steps};
        read(at);
        uint8_t flags[kAttentionTile];
        const uint8_t* reset = reset_of(s_.sequences, q, time, steps, flags);
        const int64_t tile = tiles_before(s_.sequences, q.index, kAttentionTile) + time / kAttentionTile;
        visit_all_columns(reset, steps);
        visit_all_rows(reset, steps, f_.states + (tile * s_.heads + head_) * s_.K * s_.V);
        write(at);
    }

    void read(const Place& at) {
        q_.read(f_.q, head_ / s_.per_key, s_.K, at);
        k_.read(f_.k, head_ / s_.per_key, s_.K, at);
        a_.read(p_.forward.a, head_, s_.K, at);
        b_.read(p_.forward.b, head_, s_.K, at);
        v_.read(f_.v, head_, s_.V, at);
        w_.read(p_.forward.w, head_, s_.V, at);
        if (p_.d_o.units.data)
            d_o_.read(p_.d_o, head_, s_.V, at);
        else
            d_o_.fill_zero(s_.V, at.steps);
        pad_columns(d_o_, s_.V, at.steps);
        scale_tile(q_, s_.K, at.steps, s_.scale);
        read_decay(s_, f_.decay, head_, at, decay_);
    }

    void visit_all_columns(const uint8_t* reset, int64_t steps) {
        for (int64_t block = 0; block < columns_.blocks(); ++block) {
            const int64_t column = block * kColumns<T>;
            T* P = columns_.block(block);
            vec<T> dw[kColumnVectors]{};
            with_decay(s_.decay, [&]<Decay D>() {
                for (int64_t t = steps - 1; t >= 0; --t) {
                    const int64_t later = t + 1;
                    bool follows = later < steps;
                    if (follows && reset && reset[later]) {
                        clear(P, s_.K * kColumns<T>);
                        follows = false;
                    }
                    const StepGradient<T> pass = {q_.at(0, t),
                                                  k_.at(0, t),
                                                  b_.at(0, t),
                                                  follows ? decay_.at(0, later) : nullptr,
                                                  follows ? a_.at(0, later) : nullptr,
                                                  d_o_.at(column, t),
                                                  dv_.at(column, t),
                                                  dw_.at(column, t),
                                                  s_.K};
                    (follows ? visit_corrected<T, D, true> : visit_corrected<T, D, false>)(pass, P, dw);
                }
                if (reset && reset[0])
                    clear(P, s_.K * kColumns<T>);
                else
                    leave_step<T, D>(decay_.at(0, 0), a_.at(0, 0), s_.K, dw, P);
            });
        }
        // A reset forgets the state that a step reads.
        for (int64_t t = 0; reset && t < steps; ++t)
            if (reset[t])
                for (int64_t n = 0; n < s_.V; n += W) store(dw_.at(n, t), vec<T>{});
    }

    void visit_all_rows(const uint8_t* reset, int64_t steps, const T* saved) {
        const Passes passes(steps, kCorrectedPass, reset);
        const int64_t size = s_.V * W;
        for (int64_t n = 0; n < s_.K; n += W) {
            read_tile(matrix(saved), {0, n, min_of(W, s_.K - n), 0, s_.V}, states_);
            with_decay(s_.decay, [&]<Decay D>() {
                constexpr int C = kCorrectedPass;
                for (int i = 0; i < passes.count; ++i) {
                    const int64_t t = passes.start[i];
                    T* before = states_ + i * size;
                    if (reset && reset[t]) clear(before, size);
                    const bool full = passes.start[i + 1] - t == C;
                    (full ? recompute_corrected<T, C, D> : recompute_corrected<T, 1, D>)(row_pass(n, t), before,
                                                                                         before + size);
                }
                T* P = rows_ + n * s_.V;
                for (int i = passes.count - 1; i >= 0; --i) {
                    const int64_t t = passes.start[i];
                    const bool full = passes.start[i + 1] - t == C;
                    (full ? visit_corrected_rows<T, C, D> : visit_corrected_rows<T, 1, D>)(row_pass(n, t),
                                                                                           states_ + i * size, P);
                    if (reset && reset[t]) clear(P, size);
                }
            });
        }
    }

    CorrectedRows<T> row_pass(int64_t n, int64_t t) const {
        const int64_t unit = s_.decay == Decay::vector ? n : 0;
        return {q_.at(n, t),  k_.at(n, t),  a_.at(n, t),   b_.at(n, t),      decay_.at(unit, t),
                v_.at(0, t),  w_.at(0, t),  d_o_.at(0, t), dw_.at(0, t),     dq_.at(n, t),
                dk_.at(n, t), da_.at(n, t), db_.at(n, t),  ddecay_.at(n, t), s_.V};
    }

    void write(const Place& at) {
        const int64_t key_head = head_ / s_.per_key;
        if (p_.dv.units.data) dv_.write(p_.dv, head_, s_.V, at);
        if (p_.da.units.data) da_.write(p_.da, head_, s_.K, at);
        if (p_.db.units.data) db_.write(p_.db, head_, s_.K, at);
        scale_tile(dq_, s_.K, at.steps, s_.scale);
        if (p_.dq.units.data) add_to_group(p_.dq, key_head, dq_, sum_, s_.K, at, is_first_);
        if (p_.dk.units.data) add_to_group(p_.dk, key_head, dk_, sum_, s_.K, at, is_first_);
        if (!p_.ddecay.units.data) return;
        if (s_.decay == Decay::scalar) add_rows(ddecay_, s_.K, at.steps);
        through_logarithm(s_, decay_, ddecay_, at.steps);
        ddecay_.write(p_.ddecay, head_, decay_units(s_), at);
    }

    void zero_padding(const Sequence& q, int64_t from, int64_t to) {
        if (from >= to) return;
        const Place at = {q.row, 0, 0, q.start + from, to - from};
        dv_.fill_zero(s_.V, at.steps);
        dq_.fill_zero(s_.K, at.steps);
        if (p_.dv.units.data) dv_.write(p_.dv, head_, s_.V, at);
        for (const Heads* x : {&p_.dq, &p_.dk})
            if (x->units.data) dq_.write(*x, head_ / s_.per_key, s_.K, at);
        for (const Heads* x : {&p_.da, &p_.db})
            if (x->units.data) dq_.write(*x, head_, s_.K, at);
        if (p_.ddecay.units.data) dq_.write(p_.ddecay, head_, decay_units(s_), at);
    }

    static void clear(T* data, int64_t count) {
        for (int64_t i = 0; i < count; i += W) store(data + i, vec<T>{});
    }

    // A (K, V) matrix as a signal whose channels are its rows
    Signal matrix(const T* data) const {
        return {const_cast<T*>(data), 0, s_.V, 1, sizeof(T) == 8 ? Storage::f64 : Storage::f32};
    }

    const LowRankGradient<T>& p_;
    const Attention<T>& f_;
    const AttentionShape& s_;
    PanelTile<T> q_, k_, a_, b_, dq_, dk_, da_, db_, ddecay_, sum_, decay_, v_, w_, d_o_, dv_, dw_;
    ColumnStates<T> columns_; // P, for dv and dw
    T* rows_ = nullptr;       // P, for the others: (vectors of rows, V, lanes)
    T* states_ = nullptr;     // before each pass and after the last one, (V, lanes)
    int64_t head_ = 0;
    bool is_first_ = true;
    size_t bytes_ = 0;
};

} // namespace

template <class T> size_t low_rank_gradient_workspace(const LowRankGradient<T>& p, int threads) {
    return size_t(threads) * Backward<T>(p, nullptr).bytes();
}

template <class T> void low_rank_gradient(const LowRankGradient<T>& p, Team team) {
    char* memory = static_cast<char*>(p.workspace);
    Backward<T> kernel(p, memory + size_t(team.id) * Backward<T>(p, nullptr).bytes());
    const AttentionShape& s = p.forward.attention.shape;
    const int64_t units = s.sequences.count * (s.heads / s.per_key);
    const int64_t first = units * team.id / team.size, last = units * (team.id + 1) / team.size;
    for (int64_t u = first; u < last; ++u) kernel.run(u);
}

template size_t low_rank_gradient_workspace(const LowRankGradient<float>&, int);
template size_t low_rank_gradient_workspace(const LowRankGradient<double>&, int);
template void low_rank_gradient(const LowRankGradient<float>&, Team);
template void low_rank_gradient(const LowRankGradient<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
