// The backward passes of linear attention, with and without a correction: the inputs and outputs of a head, and its
// tiles of time from the last to the first; the states of a tile are recomputed pass by pass from the saved one.
#pragma once
#include "ssm/cpu/attention/attention.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// `Own` is the derived class, which defines run_tile(sequence, first step, steps, index of the saved state).
template <class T, class Own> class BackwardPass {
public:
    size_t bytes() const { return bytes_; }

    // Unit: (sequence, head of q and k). The value heads of that head run in turn and add to the same dq and dk.
    void run(int64_t unit, Team team) {
        const int64_t key_heads = s_.heads / s_.per_key;
        const Sequence q = sequence(s_.sequences, unit / key_heads);
        for (int64_t i = 0; i < s_.per_key; ++i) {
            head_ = unit % key_heads * s_.per_key + i;
            is_first_ = i == 0;
            run_head(q, team);
        }
    }

protected:
    static constexpr int W = lanes<T>;

    BackwardPass(const AttentionGradient<T>& p, Arena& cut) : p_(p), f_(p.forward), s_(p.forward.shape) {
        for (PanelTile<T>* tile : {&q_, &k_, &dq_, &dk_, &ddecay_, &sum_}) tile->take(cut, s_.K);
        decay_.take(cut, decay_units(s_));
        for (PanelTile<T>* tile : {&v_, &d_o_, &dv_}) tile->take(cut, s_.V);
        columns_.take(cut, s_.K, s_.V);
        rows_ = cut.take<T>(ceil_div(s_.K, W) * s_.V * W);
        states_ = cut.take<T>((kAttentionTile + 1) * s_.V * W);
    }

    // Hooks for the derived class
    void begin_head(int64_t) {}
    void end_head(int64_t) {}
    void zero_others(const Place&) {}
    void fetch_others(const Place&) {}

    void read(const Place& at) {
        const int64_t key_head = head_ / s_.per_key;
        read_scaled(f_.q, key_head, s_.K, at, s_.scale, q_);
        k_.read(f_.k, key_head, s_.K, at);
        v_.read(f_.v, head_, s_.V, at);
        if (p_.d_o.units.data)
            d_o_.read(p_.d_o, head_, s_.V, at);
        else
            d_o_.fill_zero(s_.V, at.steps);
        pad_columns(d_o_, s_.V, at.steps);
        if (f_.decay.units.data) read_decay(s_, f_.decay, head_, at, decay_);
    }

    // Sets the previous tile, which the passes prefetch in `shares` shares.
    void fetch(const Sequence& q, int64_t time, int64_t place, int64_t shares) {
        upcoming_.begin(shares);
        const Place at = {q.row, 0, 0, q.start + time - kAttentionTile, time > 0 ? kAttentionTile : 0};
        const int64_t key_head = head_ / s_.per_key;
        for (const Heads* x : {&f_.q, &f_.k, &p_.dq, &p_.dk}) upcoming_.add<T>(*x, key_head, s_.K, at);
        for (const Heads* x : {&f_.v, &p_.d_o, &p_.dv}) upcoming_.add<T>(*x, head_, s_.V, at);
        if (s_.decay == Decay::vector)
            for (const Heads* x : {&f_.decay, &p_.ddecay}) upcoming_.add<T>(*x, head_, s_.K, at);
        if (time > 0) upcoming_.add<T>({matrix(state(place - s_.heads)), 0}, 0, s_.V, {0, 0, 0, 0, s_.K});
        own().fetch_others(at);
    }

    // Calls recompute(is_full, first row of a vector of rows, step, states before, states after) for the passes of a
    // tile, and visit(is_full, first row, step, states before, P) in reverse; a pass is full or a single step.
    template <class Recompute, class Visit>
    void visit_rows_of(const Passes& passes, const uint8_t* reset, int64_t place, Recompute recompute, Visit visit) {
        const int64_t size = s_.V * W;
        for (int64_t n = 0; n < s_.K; n += W) {
            read_tile(matrix(state(place)), {0, n, min_of(W, s_.K - n), 0, s_.V}, states_);
            for (int i = 0; i < passes.count; ++i) {
                const int64_t t = passes.start[i];
                T* before = states_ + i * size;
                if (reset && reset[t]) clear(before, size);
                recompute(passes.start[i + 1] - t > 1, n, t, before, before + size);
            }
            T* P = rows_ + n * s_.V;
            for (int i = passes.count - 1; i >= 0; --i) {
                const int64_t t = passes.start[i];
                visit(passes.start[i + 1] - t > 1, n, t, static_cast<const T*>(states_ + i * size), P);
                if (reset && reset[t]) clear(P, size);
            }
        }
    }

    void write(const Place& at) {
        const int64_t key_head = head_ / s_.per_key;
        if (p_.dv.units.data) dv_.write(p_.dv, head_, s_.V, at);
        if (p_.dq.units.data) {
            scale_tile(dq_, s_.K, at.steps, s_.scale);
            add_to_group(p_.dq, key_head, dq_, sum_, s_.K, at, is_first_);
        }
        if (p_.dk.units.data) add_to_group(p_.dk, key_head, dk_, sum_, s_.K, at, is_first_);
        if (!p_.ddecay.units.data) return;
        through_form(s_, decay_, ddecay_, at.steps);
        ddecay_.write(p_.ddecay, head_, decay_units(s_), at);
    }

    static void clear(T* data, int64_t count) {
        for (int64_t i = 0; i < count; i += W) store(data + i, vec<T>{});
    }

    const AttentionGradient<T>& p_;
    const Attention<T>& f_;
    const AttentionShape& s_;
    PanelTile<T> q_, k_, dq_, dk_, sum_, decay_, ddecay_, v_, d_o_, dv_;
    Upcoming upcoming_;
    ColumnStates<T> columns_; // P with columns in the lanes
    T* rows_ = nullptr;       // P with rows in the lanes: (vectors of rows, V, lanes)
    T* states_ = nullptr;     // before each pass and after the last one, (V, lanes)
    int64_t head_ = 0;
    bool is_first_ = true;
    size_t bytes_ = 0;

private:
    Own& own() { return static_cast<Own&>(*this); }

    void run_head(const Sequence& q, Team team) {
        const int64_t size = s_.K * s_.V, place = q.index * s_.heads + head_;
        const T* dlast = p_.dlast ? p_.dlast + place * size : nullptr;
        columns_.read(dlast);
        for (int64_t n = 0; n < s_.K; n += W) {
            T* rows = rows_ + n * s_.V;
            if (dlast)
                read_tile(matrix(dlast), {0, n, min_of(W, s_.K - n), 0, s_.V}, rows);
            else
                clear(rows, s_.V * W);
        }
        own().begin_head(place);
        for (int64_t time = (ceil_div(q.padded, kAttentionTile) - 1) * kAttentionTile; time >= 0;
             time -= kAttentionTile) {
            if (has_to_stop(team, 4 * kAttentionTile * size)) return;
            const int64_t steps = min_of(kAttentionTile, q.steps - time);
            if (steps < kAttentionTile)
                zero_padding(q, time + max_of(steps, 0), min_of(time + kAttentionTile, q.padded));
            const int64_t tile = tiles_before(s_.sequences, q.index, kAttentionTile) + time / kAttentionTile;
            if (steps > 0) own().run_tile(q, time, steps, tile * s_.heads + head_);
        }
        if (p_.dfirst) columns_.write(p_.dfirst + place * size);
        own().end_head(place);
    }

    void zero_padding(const Sequence& q, int64_t from, int64_t to) {
        if (from >= to) return;
        const Place at = {q.row, 0, 0, q.start + from, to - from};
        dv_.fill_zero(s_.V, at.steps);
        dq_.fill_zero(s_.K, at.steps);
        if (p_.dv.units.data) dv_.write(p_.dv, head_, s_.V, at);
        for (const Heads* x : {&p_.dq, &p_.dk})
            if (x->units.data) dq_.write(*x, head_ / s_.per_key, s_.K, at);
        if (p_.ddecay.units.data) dq_.write(p_.ddecay, head_, decay_units(s_), at);
        own().zero_others(at);
    }

    // A saved state
    const T* state(int64_t place) const { return f_.states + place * s_.K * s_.V; }

    // A (K, V) matrix as a signal whose channels are its rows
    Signal matrix(const T* data) const {
        return {const_cast<T*>(data), 0, s_.V, 1, sizeof(T) == 8 ? Storage::f64 : Storage::f32};
    }
};

// Runs the units of this thread; Pass: a class as above.
template <class Pass, class Gradient>
void run_backward(const Gradient& p, const AttentionShape& s, void* workspace, Team team) {
    Pass pass(p, static_cast<char*>(workspace) + size_t(team.id) * Pass(p, nullptr).bytes());
    const int64_t units = s.sequences.count * (s.heads / s.per_key);
    const int64_t first = units * team.id / team.size, last = units * (team.id + 1) / team.size;
    for (int64_t u = first; u < last; ++u) pass.run(u, team);
}

} // namespace fastiter::ssm::FASTITER_LEVEL
