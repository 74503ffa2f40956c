// Linear attention, backward: tiles of time from the last to the first; the states of a tile are recomputed from the
// saved one, pass by pass.
#include "ssm/cpu/attention_gates.hpp"
#include "ssm/cpu/attention_visit.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {
namespace {

template <class T> class Backward {
    static constexpr int W = lanes<T>;

public:
    Backward(const AttentionGradient<T>& p, void* memory) : p_(p), f_(p.forward), s_(p.forward.shape) {
        Cutter cut(memory);
        for (PanelTile<T>* tile : {&q_, &k_, &dq_, &dk_, &sum_}) tile->take(cut, s_.K);
        decay_.take(cut, decay_units(s_)), ddecay_.take(cut, s_.K);
        for (PanelTile<T>* tile : {&v_, &d_o_, &dv_}) tile->take(cut, s_.V);
        coefficients_ = cut.take<T>(kAttentionTile);
        products_ = cut.take<T>(kAttentionTile);
        dbonus_ = cut.take<T>(round_up(s_.K, W));
        columns_.take(cut, s_.K, s_.V);
        rows_ = cut.take<T>(ceil_div(s_.K, W) * s_.V * W);
        states_ = cut.take<T>((kAttentionTile + 1) * s_.V * W);
        if (f_.gates.given) {
            gates_.take(cut);
            n_.take(cut, s_.K);
            for (T** vector : {&n_before_, &dn_}) *vector = cut.take<T>(round_up(s_.K, W));
            for (T** numbers : {&inverse_, &signs_}) *numbers = cut.take<T>(kAttentionTile);
        }
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
        dm_place_ = q.index * s_.heads + head_;
        columns_.read(dlast);
        for (int64_t n = 0; n < s_.K; n += W) {
            T* rows = rows_ + n * s_.V;
            if (dlast)
                read_tile(matrix(dlast), {0, n, min_of(W, s_.K - n), 0, s_.V}, rows);
            else
                for (int64_t j = 0; j < s_.V; ++j) store(rows + j * W, vec<T>{});
        }
        for (int64_t n = 0; n < s_.K; n += W) store(dbonus_ + n, vec<T>{});
        if (f_.gates.given) read_vector(p_.dlast_n, q.index * s_.heads + head_, dn_);
        for (int64_t time = (ceil_div(q.padded, kAttentionTile) - 1) * kAttentionTile; time >= 0;
             time -= kAttentionTile) {
            const int64_t steps = min_of(kAttentionTile, q.steps - time);
            if (steps < kAttentionTile)
                zero_padding(q, time + max_of(steps, 0), min_of(time + kAttentionTile, q.padded));
            if (steps > 0) run_tile(q, time, steps);
        }
        if (p_.dfirst) columns_.write(p_.dfirst + state);
        if (p_.dfirst_n) write_vector(p_.dfirst_n, q.index * s_.heads + head_, dn_);
        if (p_.dbonus) write_vector(p_.dbonus, q.index * s_.heads + head_, dbonus_);
    }

    // A vector of K numbers of a contiguous (place, K); zeros without it
    void read_vector(const T* from, int64_t place, T* to) const {
        for (int64_t n = 0; n < s_.K; n += W)
            store(to + n, from ? load_up_to(from + place * s_.K + n, s_.K - n) : vec<T>{});
    }
    void write_vector(T* to, int64_t place, const T* from) const {
        for (int64_t n = 0; n < s_.K; n += W) store_up_to(to + place * s_.K + n, load(from + n), s_.K - n);
    }

    void run_tile(const Sequence& q, int64_t time, int64_t steps) {
        const Place at = {q.row, 0, 0, q.start + time, steps};
        read(at);
        fetch({q.row, 0, 0, at.time - kAttentionTile, time > 0 ? kAttentionTile : 0});
        uint8_t flags[kAttentionTile];
        const uint8_t* reset = reset_of(s_.sequences, q, time, steps, flags);
        const int64_t tile = tiles_before(s_.sequences, q.index, kAttentionTile) + time / kAttentionTile;
        const int64_t place = tile * s_.heads + head_;
        if (f_.gates.given) begin_gates(at, reset, place);
        if (p_.dv.units.data || p_.dfirst) visit_all_columns(reset, steps);
        if (needs_rows()) visit_all_rows(reset, steps, f_.states + place * s_.K * s_.V);
        if (f_.gates.given && needs_rows()) add_normalizer(reset, steps);
        if (f_.bonus) add_bonus(steps);
        write(at, reset);
    }

    void read(const Place& at) {
        const int64_t key_head = head_ / s_.per_key;
        q_.read(f_.q, key_head, s_.K, at);
        k_.read(f_.k, key_head, s_.K, at);
        v_.read(f_.v, head_, s_.V, at);
        if (p_.d_o.units.data)
            d_o_.read(p_.d_o, head_, s_.V, at);
        else
            d_o_.fill_zero(s_.V, at.steps);
        pad_columns(d_o_, s_.V, at.steps);
        scale_tile(q_, s_.K, at.steps, s_.scale);
        if (f_.decay.units.data) read_decay(s_, f_.decay, head_, at, decay_);
        if (!f_.bonus) return;
        for (int64_t t = 0; t < at.steps; ++t) {
            coefficients_[t] = bonus_product(q_, k_, f_.bonus + head_ * s_.K, s_.K, t);
            vec<T> sum{};
            for (int64_t n = 0; n < s_.V; n += W) sum = fma(load(v_.at(n, t)), load(d_o_.at(n, t)), sum);
            products_[t] = sum_of<T>(sum);
        }
    }

    bool needs_rows() const {
        for (const Heads* x : {&p_.dq, &p_.dk, &p_.ddecay, &p_.d_i, &p_.d_f})
            if (x->units.data) return true;
        return p_.dfirst_n;
    }

    // The gates and the normaliser of a tile; the output's gradient becomes that of the sum before the division.
    void begin_gates(const Place& at, const uint8_t* reset, int64_t place) {
        const Gates<T>& g = f_.gates;
        gates_.read(g, head_, at, reset, g.states_m[place]);
        apply_gates(gates_, k_, decay_, s_.K, at.steps);
        T* n = dq_.data; // not needed yet
        read_vector(g.states_n, place, n_before_);
        for (int64_t c = 0; c < s_.K; c += W) store(n + c, load(n_before_ + c));
        advance_normalizer(q_, k_, gates_, reset, s_.K, at.steps, n, n_, inverse_);
        invert_normalizer(gates_, at.steps, g.eps, inverse_, signs_);
        scale_steps(d_o_, s_.V, at.steps, inverse_);
    }

    // Adds the normaliser's part. With D the divisor of o, its gradient is -(sum over V of do o / D) = -q dq / D, where
    // dq is still that of the sum; dn and its decay then follow as those of a column of the state.
    void add_normalizer(const uint8_t* reset, int64_t steps) {
        for (int64_t t = steps - 1; t >= 0; --t) {
            vec<T> sum{};
            for (int64_t c = 0; c < s_.K; c += W) sum = fma(load(q_.at(c, t)), load(dq_.at(c, t)), sum);
            const T d_divisor = p_.through_normalizer ? -sum_of<T>(sum) * inverse_[t] : 0, d = d_divisor * signs_[t];
            signs_[t] = d_divisor * T(f_.gates.eps); // the gradient of m: all but eps are multiples of e^-m
            const bool is_reset = reset && reset[t];
            for (int64_t c = 0; c < s_.K; c += W) {
                const vec<T> dn = fma(load(q_.at(c, t)), broadcast(d), load(dn_ + c));
                store(dq_.at(c, t), fma(load(n_.at(c, t)), broadcast(d), load(dq_.at(c, t))));
                store(dk_.at(c, t), load(dk_.at(c, t)) + dn);
                const vec<T> before = is_reset ? vec<T>{} : load(t ? n_.at(c, t - 1) : n_before_ + c);
                store(ddecay_.at(c, t), fma(before, dn, load(ddecay_.at(c, t))));
                store(dn_ + c, is_reset ? vec<T>{} : dn * gates_.f[t]);
            }
        }
    }

    // The gradients of the gates, through the logarithms of the decay and of the factor of k, and through m; that of k
    void write_gates(const Place& at, const uint8_t* reset) {
        T dm = p_.dm[dm_place_];
        for (int64_t t = at.steps - 1; t >= 0; --t) {
            vec<T> di{};
            for (int64_t c = 0; c < s_.K; c += W) di = fma(load(k_.at(c, t)), load(dk_.at(c, t)), di);
            dm += signs_[t];
            const bool kept = gates_.kept[t] != 0;
            const T d_i = sum_of<T>(di) + (kept ? T(0) : dm),
                    d_lf = *ddecay_.at(0, t) * gates_.f[t] + (kept ? dm : T(0));
            if (!kept || (reset && reset[t])) dm = 0;
            store(sum_.at(0, t), broadcast(d_i));
            store(ddecay_.at(0, t), broadcast(d_lf * gates_.slope[t]));
        }
        p_.dm[dm_place_] = dm;
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
                                                      : visit_columns<T, 1, D, Before>)(pass, P);
                });
                if (reset && reset[t]) clear(P, s_.K * kColumns<T>);
            }
        }
    }

    void visit_all_rows(const uint8_t* reset, int64_t steps, const T* saved) {
        const Passes passes(steps, kRowPass, reset);
        const int64_t size = s_.V * W;
        for (int64_t n = 0; n < s_.K; n += W) {
            read_tile(matrix(saved), {0, n, min_of(W, s_.K - n), 0, s_.V}, states_);
            for (int i = 0; i < passes.count; ++i) {
                const int64_t t = passes.start[i];
                T* before = states_ + i * size;
                if (reset && reset[t]) clear(before, size);
                with_form(s_.decay, f_.bonus, [&]<Decay D, bool Before>() {
                    (passes.start[i + 1] - t == kRowPass
                         ? recompute_rows<T, kRowPass, D, Before>
                         : recompute_rows<T, 1, D, Before>)(row_pass(n, t), before, before + size);
                });
            }
            T* P = rows_ + n * s_.V;
            for (int i = passes.count - 1; i >= 0; --i) {
                const int64_t t = passes.start[i];
                with_form(s_.decay, f_.bonus, [&]<Decay D, bool Before>() {
                    (passes.start[i + 1] - t == kRowPass
                         ? visit_rows<T, kRowPass, D, Before>
                         : visit_rows<T, 1, D, Before>)(row_pass(n, t), states_ + i * size, P);
                });
                if (reset && reset[t]) clear(P, size);
            }
        }
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
            vec<T> dbonus = load(dbonus_ + n);
            for (int64_t t = 0; t < steps; ++t) {
                const vec<T> q = load(q_.at(n, t)), k = load(k_.at(n, t)) * products_[t];
                store(dq_.at(n, t), fma(bonus, k, load(dq_.at(n, t))));
                store(dk_.at(n, t), fma(bonus * products_[t], q, load(dk_.at(n, t))));
                dbonus = fma(q, k, dbonus);
            }
            store(dbonus_ + n, dbonus);
        }
    }

    void write(const Place& at, const uint8_t* reset) {
        const int64_t key_head = head_ / s_.per_key;
        if (p_.dv.units.data) dv_.write(p_.dv, head_, s_.V, at);
        if (s_.decay == Decay::scalar && needs_rows()) add_rows(ddecay_, s_.K, at.steps);
        if (f_.gates.given && needs_rows()) write_gates(at, reset);
        if (p_.dq.units.data) {
            scale_tile(dq_, s_.K, at.steps, s_.scale);
            add_to_group(p_.dq, key_head, dq_, sum_, s_.K, at, is_first_);
        }
        if (p_.dk.units.data) add_to_group(p_.dk, key_head, dk_, sum_, s_.K, at, is_first_);
        if (!p_.ddecay.units.data) return;
        through_logarithm(s_, decay_, ddecay_, at.steps);
        ddecay_.write(p_.ddecay, head_, decay_units(s_), at);
    }

    void fetch(const Place& at) const {
        prefetch_heads<T>(f_.q, head_ / s_.per_key, s_.K, at);
        prefetch_heads<T>(f_.k, head_ / s_.per_key, s_.K, at);
        prefetch_heads<T>(f_.v, head_, s_.V, at);
        prefetch_heads<T>(p_.d_o, head_, s_.V, at);
        if (s_.decay == Decay::vector) prefetch_heads<T>(f_.decay, head_, s_.K, at);
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
        for (const Heads* x : {&p_.d_i, &p_.d_f})
            if (x->units.data) dq_.write(*x, head_, 1, at);
    }

    static void clear(T* data, int64_t count) {
        for (int64_t i = 0; i < count; i += W) store(data + i, vec<T>{});
    }

    // A (K, V) matrix as a signal whose channels are its rows
    Signal matrix(const T* data) const {
        return {const_cast<T*>(data), 0, s_.V, 1, sizeof(T) == 8 ? Storage::f64 : Storage::f32};
    }

    const AttentionGradient<T>& p_;
    const Attention<T>& f_;
    const AttentionShape& s_;
    PanelTile<T> q_, k_, dq_, dk_, sum_, decay_, ddecay_, v_, d_o_, dv_;
    ColumnStates<T> columns_; // P, for dv
    T* rows_ = nullptr;       // P, for dq, dk and ddecay: (vectors of rows, V, lanes)
    T* states_ = nullptr;     // before each pass and after the last one, (V, lanes)
    GateTile<T> gates_;
    PanelTile<T> n_; // after each step
    T *n_before_ = nullptr, *dn_ = nullptr, *inverse_ = nullptr, *signs_ = nullptr;
    T *coefficients_ = nullptr, *products_ = nullptr, *dbonus_ = nullptr;
    int64_t head_ = 0, dm_place_ = 0;
    bool is_first_ = true;
    size_t bytes_ = 0;
};

} // namespace

template <class T> size_t attention_gradient_workspace(const AttentionGradient<T>& p, int threads) {
    return size_t(threads) * Backward<T>(p, nullptr).bytes();
}

template <class T> void attention_gradient(const AttentionGradient<T>& p, Team team) {
    char* memory = static_cast<char*>(p.workspace);
    Backward<T> kernel(p, memory + size_t(team.id) * Backward<T>(p, nullptr).bytes());
    const AttentionShape& s = p.forward.shape;
    const int64_t units = s.sequences.count * (s.heads / s.per_key);
    const int64_t first = units * team.id / team.size, last = units * (team.id + 1) / team.size;
    for (int64_t u = first; u < last; ++u) kernel.run(u);
}

template size_t attention_gradient_workspace(const AttentionGradient<float>&, int);
template size_t attention_gradient_workspace(const AttentionGradient<double>&, int);
template void attention_gradient(const AttentionGradient<float>&, Team);
template void attention_gradient(const AttentionGradient<double>&, Team);

} // namespace fastiter::ssm::FASTITER_LEVEL
