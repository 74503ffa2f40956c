// The backward passes of linear attention, with and without a correction: the inputs and outputs of a head, and its
// tiles of time from the last to the first; the states of a tile are recomputed pass by pass from the saved one.
#pragma once
#include "ssm/cpu/attention/attention.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// `Own` is the derived class, which defines run_tile(place of the tile, flags of its resets or nullptr, index of the
// saved state).
template <class T, class Own> class BackwardPass {
public:
    size_t bytes() const { return bytes_; }

    // Units [first, last): (sequence, value head). As in the forward pass, heads of a sequence run together. Those that
    // share q and k are adjacent units, and add to the same dq and dk in turn.
    void run(int64_t first, int64_t last, Team team) {
        for_heads_together<T>(s_, kCopies, first, last,
                              [&](const Sequence& q, int64_t unit, int64_t count) { run_heads(q, unit, count, team); });
    }

protected:
    static constexpr int W = lanes<T>;
    static constexpr int64_t kCopies = 2; // P is stored twice

    BackwardPass(const AttentionGradient<T>& p, Arena& cut) : p_(p), f_(p.forward), s_(p.forward.shape) {
        for (PanelTile<T>* tile : {&q_, &k_, &dq_, &dk_, &ddecay_, &sum_}) tile->take(cut, s_.K);
        decay_.take(cut, decay_units(s_));
        for (PanelTile<T>* tile : {&v_, &d_o_, &dv_}) tile->take(cut, s_.V);
        all_columns_.take(cut, s_.K, s_.V, most_together());
        all_rows_ = cut.take<T>(most_together() * rows_size());
        states_ = cut.take<T>((kAttentionTile + 1) * s_.V * W);
    }

    // Hooks for the derived class
    void begin_head() {}
    void end_head() {}
    void zero_others(const Place&) {}
    void fetch_others(int64_t, const Place&) {}

    int64_t most_together() const { return heads_together<T>(s_, s_.sequences.T, kCopies); }

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

    // Sets the tile that comes next, which the passes of this one prefetch in `shares` shares.
    void fetch_next(int64_t shares) {
        upcoming_.begin(shares);
        const int64_t head = next_.head, key_head = head / s_.per_key;
        const Place& at = next_.place;
        for (const Heads* x : {&f_.q, &f_.k, &p_.dq, &p_.dk}) upcoming_.add<T>(*x, key_head, s_.K, at);
        for (const Heads* x : {&f_.v, &p_.d_o, &p_.dv}) upcoming_.add<T>(*x, head, s_.V, at);
        if (s_.decay == Decay::vector)
            for (const Heads* x : {&f_.decay, &p_.ddecay}) upcoming_.add<T>(*x, head, s_.K, at);
        if (at.steps > 0) upcoming_.add<T>({matrix(state(next_.state)), 0}, 0, s_.V, {0, 0, 0, 0, s_.K});
        own().fetch_others(head, at);
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
            add_to_group(p_.dq, key_head, dq_, sum_, s_.K, at, is_first());
        }
        if (p_.dk.units.data) add_to_group(p_.dk, key_head, dk_, sum_, s_.K, at, is_first());
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
    ColumnStates<T> columns_; // P of the current head with columns in the lanes
    T* rows_ = nullptr;       // and with rows in the lanes: (vectors of rows, V, lanes)
    T* states_ = nullptr;     // before each pass and after the last one, (V, lanes)
    // The current value head, its unit, and its position among those that run together
    int64_t head_ = 0, unit_ = 0, position_ = 0;
    size_t bytes_ = 0;

private:
    Own& own() { return static_cast<Own&>(*this); }

    // Whether the current head is the first of those that share its q and k
    bool is_first() const { return head_ % s_.per_key == 0; }
    int64_t rows_size() const { return ceil_div(s_.K, W) * s_.V * W; }

    void select(int64_t first_unit, int64_t position) {
        unit_ = first_unit + position;
        head_ = unit_ % s_.heads;
        position_ = position;
        columns_ = all_columns_.of(position);
        rows_ = all_rows_ + position * rows_size();
    }

    void run_heads(const Sequence& q, int64_t unit, int64_t count, Team team) {
        const int64_t size = s_.K * s_.V;
        for (int64_t i = 0; i < count; ++i) {
            select(unit, i);
            read_last();
            own().begin_head();
        }
        for (int64_t time = (ceil_div(q.padded, kAttentionTile) - 1) * kAttentionTile; time >= 0;
             time -= kAttentionTile)
            for (int64_t i = 0; i < count; ++i) {
                if (has_to_stop(team, 4 * kAttentionTile * size)) return;
                select(unit, i);
                const bool same_time = i + 1 < count;
                next_ = tile_of(q, same_time ? head_ + 1 : unit % s_.heads, same_time ? time : time - kAttentionTile);
                run_tile(q, time);
            }
        for (int64_t i = 0; i < count; ++i) {
            select(unit, i);
            if (p_.dfirst) columns_.write(p_.dfirst + unit_ * size);
            own().end_head();
        }
    }

    // Reads the gradient of the last state.
    void read_last() {
        const T* dlast = p_.dlast ? p_.dlast + unit_ * s_.K * s_.V : nullptr;
        columns_.read(dlast);
        for (int64_t n = 0; n < s_.K; n += W) {
            T* rows = rows_ + n * s_.V;
            if (dlast)
                read_tile(matrix(dlast), {0, n, min_of(W, s_.K - n), 0, s_.V}, rows);
            else
                clear(rows, s_.V * W);
        }
    }

    // A tile of a head, without steps if `time` is negative or beyond the sequence; `state`: the index of the state
    // that was saved before it
    struct Tile {
        int64_t head, state;
        Place place;
    };
    Tile tile_of(const Sequence& q, int64_t head, int64_t time) const {
        const int64_t tile = tiles_before(s_.sequences, q.index, kAttentionTile) + time / kAttentionTile;
        const int64_t steps = time < 0 ? 0 : min_of(kAttentionTile, q.steps - time);
        return {head, tile * s_.heads + head, {q.row, 0, 0, q.start + time, steps}};
    }

    void run_tile(const Sequence& q, int64_t time) {
        const Tile tile = tile_of(q, head_, time);
        const int64_t steps = tile.place.steps;
        if (steps < kAttentionTile) zero_padding(q, time + max_of(steps, 0), min_of(time + kAttentionTile, q.padded));
        if (steps <= 0) return;
        uint8_t flags[kAttentionTile];
        own().run_tile(tile.place, reset_of(s_.sequences, q, time, steps, flags), tile.state);
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

    ColumnStates<T> all_columns_; // P of all heads that run together
    T* all_rows_ = nullptr;
    Tile next_{}; // the tile that comes next
};

// Runs the units of this thread; Pass: a class as above.
template <class Pass, class Gradient>
void run_backward(const Gradient& p, const AttentionShape& s, void* workspace, Team team) {
    Pass pass(p, static_cast<char*>(workspace) + size_t(team.id) * Pass(p, nullptr).bytes());
    const auto [first, last] = share(s.sequences.count * (s.heads / s.per_key), team); // heads of q and k
    pass.run(first * s.per_key, last * s.per_key, team);
}

} // namespace fastiter::ssm::FASTITER_LEVEL
