// The forward passes of linear attention, with and without a correction: the inputs and outputs of the heads of a
// sequence, and their tiles of time.
#pragma once
#include "ssm/cpu/attention/attention.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// `Own` is the derived class, which defines run_tile(place of the tile, flags of the resets in it or nullptr).
template <class T, class Own> class ForwardPass {
public:
    size_t bytes() const { return bytes_; }

    // Units [first, last): (sequence, value head). Heads of a sequence run together, each for one tile at a time: their
    // numbers are usually adjacent in memory at each step, and the steps of a head far apart. The heads then share
    // the pages of a tile, whose addresses are translated once for all of them.
    void run(int64_t first, int64_t last, Team team) {
        for_heads_together<T>(s_, kCopies, first, last,
                              [&](const Sequence& q, int64_t unit, int64_t count) { run_heads(q, unit, count, team); });
    }

protected:
    static constexpr int64_t kCopies = 1; // a state of a head is stored once

    ForwardPass(const Attention<T>& p, Arena& cut) : f_(p), s_(p.shape) {
        for (PanelTile<T>* tile : {&q_, &k_}) tile->take(cut, s_.K);
        decay_.take(cut, decay_units(s_));
        for (Columns<T>* tile : {&v_, &o_}) tile->panel.take(cut, s_.V);
        all_states_.take(cut, s_.K, s_.V, most_together());
    }

    // Hooks for the derived class; `unit` or `place`: the index of a head among the first and last states, or among
    // the saved ones
    void begin_head(int64_t) {}
    void end_head(int64_t) const {}
    void save_others(int64_t) const {}
    void fetch_others(int64_t, const Place&) {}
    void zero_others(const Place&) const {}

    int64_t most_together() const { return heads_together<T>(s_, s_.sequences.T, kCopies); }

    void read(const Place& at) {
        read_scaled(f_.q, head_ / s_.per_key, s_.K, at, s_.scale, q_);
        k_.read(f_.k, head_ / s_.per_key, s_.K, at);
        if (f_.decay.units.data) read_decay(s_, f_.decay, head_, at, decay_);
        if (!v_.place(f_.v, head_, s_.V, at)) {
            v_.panel.read(f_.v, head_, s_.V, at);
            pad_columns(v_.panel, s_.V, at.steps);
        }
    }

    // Sets the tile that comes next, which the passes of this one prefetch in `shares` shares.
    void fetch_next(int64_t shares) {
        upcoming_.begin(shares);
        for (const Heads* x : {&f_.q, &f_.k}) upcoming_.add<T>(*x, next_head_ / s_.per_key, s_.K, next_);
        for (const Heads* x : {&f_.v, &f_.o}) upcoming_.add<T>(*x, next_head_, s_.V, next_);
        if (s_.decay == Decay::vector) upcoming_.add<T>(f_.decay, next_head_, s_.K, next_);
        own().fetch_others(next_head_, next_);
    }

    const Attention<T>& f_;
    const AttentionShape& s_;
    PanelTile<T> q_, k_, decay_;
    Columns<T> v_, o_;
    Upcoming upcoming_;
    ColumnStates<T> states_;          // the states of the current head
    int64_t head_ = 0, position_ = 0; // the current head, and its position among those that run together
    size_t bytes_ = 0;

private:
    Own& own() { return static_cast<Own&>(*this); }

    void select(int64_t first_head, int64_t position) {
        head_ = first_head + position;
        position_ = position;
        states_ = all_states_.of(position);
    }

    void run_heads(const Sequence& q, int64_t unit, int64_t count, Team team) {
        const int64_t first = unit % s_.heads, size = s_.K * s_.V;
        for (int64_t i = 0; i < count; ++i) {
            select(first, i);
            states_.read(f_.first ? f_.first + (unit + i) * size : nullptr);
            own().begin_head(unit + i);
        }
        for (int64_t time = 0; time < q.padded; time += kAttentionTile)
            for (int64_t i = 0; i < count; ++i) {
                if (has_to_stop(team, kAttentionTile * size)) return;
                select(first, i);
                const int64_t next_time = i + 1 < count ? time : time + kAttentionTile;
                next_head_ = i + 1 < count ? head_ + 1 : first;
                next_ = {q.row, 0, 0, q.start + next_time, min_of(kAttentionTile, q.steps - next_time)};
                run_tile(q, time);
            }
        for (int64_t i = 0; i < count; ++i) {
            select(first, i);
            states_.write(f_.last + (unit + i) * size);
            own().end_head(unit + i);
        }
    }

    void run_tile(const Sequence& q, int64_t time) {
        const int64_t steps = min_of(kAttentionTile, q.steps - time);
        if (steps > 0) {
            const Place at = {q.row, 0, 0, q.start + time, steps};
            if (f_.states) save(q, time / kAttentionTile);
            uint8_t flags[kAttentionTile];
            own().run_tile(at, reset_of(s_.sequences, q, time, steps, flags));
        }
        if (steps < kAttentionTile) zero_padding(q, time + max_of(steps, 0), min_of(time + kAttentionTile, q.padded));
    }

    // Saves the state before a tile for the backward pass.
    void save(const Sequence& q, int64_t tile) {
        const int64_t place = (tiles_before(s_.sequences, q.index, kAttentionTile) + tile) * s_.heads + head_;
        states_.write(f_.states + place * s_.K * s_.V);
        own().save_others(place);
    }

    void zero_padding(const Sequence& q, int64_t from, int64_t to) {
        if (from >= to) return;
        const Place at = {q.row, 0, 0, q.start + from, to - from};
        o_.panel.fill_zero(s_.V, at.steps);
        o_.panel.write(f_.o, head_, s_.V, at);
        own().zero_others(at);
    }

    ColumnStates<T> all_states_;
    int64_t next_head_ = 0; // the tile that comes next
    Place next_{};
};

// Runs the units of this thread; Pass: a class as above.
template <class Pass, class Arguments>
void run_forward(const Arguments& p, const AttentionShape& s, void* workspace, Team team) {
    Pass pass(p, static_cast<char*>(workspace) + size_t(team.id) * Pass(p, nullptr).bytes());
    const auto [first, last] = share(s.sequences.count * s.heads, team);
    pass.run(first, last, team);
}

} // namespace fastiter::ssm::FASTITER_LEVEL
