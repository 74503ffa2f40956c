// dr[g, n, i, j] = sum over rows and steps of dp[g, n, i] h_before[n, j], where dp is the gradient of r h + b. All
// steps but the first are one product, directly on the arrays; the first step, with the initial h, is a second, small
// one.
#include "rnn/weight_gradient.hpp"
#include <algorithm>
#include <type_traits>
#include <vector>

namespace fastiter::rnn {
namespace {

template <class S> S* at(const Steps<S>& s, const RnnShape& shape, int64_t row, int64_t t) {
    if (shape.offsets) return s.data + (shape.offsets[t] + row) * s.row;
    return s.data + (shape.starts ? shape.starts[row] * s.time : row * s.row) + t * s.time;
}

// Index over lines (time, row), regular if time is outermost in memory
SplitIndex lines(int64_t B, int64_t time, int64_t row) {
    if (time == B * row) return {INT64_MAX, 0, row};
    return {std::max<int64_t>(B, 1), time, row};
}

template <class S> struct Product {
    using T = accumulate_t<S>;
    // The lines of h before each step
    struct Before {
        const S* h = nullptr;
        SplitIndex rows;
        const S* const* lines = nullptr; // addresses, if the lines are not at regular strides
    };

    const RnnBackward<S>& p;
    T* dr;
    S* rounded = nullptr; // the complete dr, if its storage type is not the accumulator's
    const RnnShape& s = p.shape;
    const int64_t G = cell_size(s.cell).gates, N = s.N, D = s.D;

    // Position of this product among those that are added to dr
    struct Turn {
        bool is_first, is_last;
    };

    // Gates [first, first + count) of dr from `rows` lines of dp, with stride `gate` between gates, and of h
    void product(const S* dp, int64_t gate, SplitIndex dp_rows, const Before& h, int64_t rows, int64_t first,
                 int64_t count, Turn turn) const {
        Gemm<S> g;
        g.M = count * D;
        g.N = D;
        g.K = rows;
        g.a = dp;
        g.a_m = {D, gate, 1};
        g.a_k = dp_rows;
        g.b = h.h;
        g.b_k = h.rows;
        g.b_lines = h.lines;
        g.c = dr;
        g.c_m = {D, N * D * D, D};
        g.c += first * N * D * D;
        if (turn.is_last && rounded) g.rounded = rounded + first * N * D * D;
        g.accumulate = !turn.is_first;
        run_gemm(g);
    }

    // Both parts of dp: dwx, and dq for the gate whose dp differs from its dx
    template <class F> void for_each_part(F f) const {
        const int64_t from_dwx = p.dq.data ? G - 1 : G;
        f(p.dwx, 0, from_dwx);
        if (p.dq.data) f(p.dq, from_dwx, 1);
    }

    void shifted() {
        for_each_part([&](const Steps<S>& d, int64_t first, int64_t count) {
            const Steps<const S>& h = p.states.h;
            const int64_t steps = std::max<int64_t>(s.T - 1, 0);
            for (int64_t n = 0; n < N; ++n)
                head(n).product(d.data + n * d.head + (s.reverse ? 0 : d.time), d.gate, lines(s.B, d.time, d.row),
                                {h.data + n * h.head + (s.reverse ? h.time : 0), lines(s.B, h.time, h.row)},
                                steps * s.B, first, count, {true, !p.first.h});
        });
    }

    Product head(int64_t n) const { return {p, dr + n * D * D, rounded ? rounded + n * D * D : nullptr}; }

    // Product of dp of each row's first step, copied to be contiguous, and the initial h
    void initial() {
        if (!p.first.h) return;
        for_each_part([&](const Steps<S>& d, int64_t first, int64_t count) {
            std::vector<S> dp(size_t(s.B * count * N * D), S{});
            for (int64_t row = 0; row < s.B; ++row) {
                const int64_t length = s.lengths ? s.lengths[row] : s.T;
                if (length == 0) continue;
                const S* from = at(d, s, row, s.reverse ? length - 1 : 0);
                for (int64_t g = 0; g < count; ++g)
                    for (int64_t n = 0; n < N; ++n)
                        std::copy_n(from + g * d.gate + n * d.head, D, &dp[size_t(((row * count + g) * N + n) * D)]);
            }
            for (int64_t n = 0; n < N; ++n)
                head(n).product(dp.data() + n * D, N * D, {INT64_MAX, 0, count * N * D},
                                {p.first.h + n * D, {INT64_MAX, 0, N * D}}, s.B, first, count, {false, true});
        });
    }

    // For h at irregular addresses, or reset before some steps: uses a list of addresses.
    void listed() {
        const Steps<const S>& h = p.states.h;
        const bool packed = s.offsets || s.starts;
        const int64_t count = packed ? s.packed_rows : s.B * s.T;
        auto line = [&](int64_t row, int64_t t) {
            return s.offsets ? s.offsets[t] + row : s.starts ? s.starts[row] + t : t * s.B + row;
        };
        std::vector<const S*> before(static_cast<size_t>(count));
        for (int64_t n = 0; n < N; ++n) {
            for (int64_t row = 0; row < s.B; ++row)
                for (int64_t t = 0, length = s.lengths ? s.lengths[row] : s.T; t < length; ++t) {
                    if (s.is_reset(row, t)) continue;
                    const bool is_first = s.reverse ? t == length - 1 : t == 0;
                    if (!is_first)
                        before[size_t(line(row, t))] = at(h, s, row, s.reverse ? t + 1 : t - 1) + n * h.head;
                    else if (p.first.h)
                        before[size_t(line(row, t))] = p.first.h + (row * N + n) * D;
                }
            for_each_part([&](const Steps<S>& d, int64_t first, int64_t gates) {
                const SplitIndex rows = s.offsets  ? SplitIndex{INT64_MAX, 0, d.row}
                                        : s.starts ? SplitIndex{INT64_MAX, 0, d.time}
                                                   : lines(s.B, d.time, d.row);
                head(n).product(d.data + n * d.head, d.gate, rows, {nullptr, {}, before.data()}, count, first, gates,
                                {true, true});
            });
        }
    }

    void run() {
        if (s.offsets || s.starts || s.reset) return listed();
        shifted();
        initial();
    }
};

// Calls f(begin, end) for each thread's share of `count` numbers.
template <class F> void in_shares(int64_t count, F f) {
    constexpr int64_t kSmall = 30000; // numbers that one thread processes before a team has started
    launch(
        [&](Team team) {
            const Range mine = share(count, team);
            f(mine.begin, mine.end);
        },
        [&](int threads) { return count < kSmall ? 1 : threads; });
}

// Whether dr of a head fits the second-level cache beside the kernel's own data
template <class S> bool fits_inside(const RnnShape& s) {
    constexpr int64_t kLargest = 256 << 10;
    return cell_size(s.cell).gates * s.D * s.D * int64_t(sizeof(S)) <= kLargest;
}

// Head-major layout: a step of a head is contiguous.
template <class S> Steps<S> steps_by_head(const RnnShape& s, Block<S>& space) {
    const bool packed = s.offsets || s.starts;
    const int64_t lines = packed ? s.packed_rows : s.B * s.T, time = s.offsets ? 0 : s.starts ? s.D : s.B * s.D;
    space = Block<S>(lines * s.N * s.D);
    return {space.data(), s.D, time, 0, lines * s.D};
}

} // namespace

template <class S> WeightGradient<S>::WeightGradient(RnnBackward<S>& p, S* dr) : dr_(dr) {
    const RnnShape& s = p.shape;
    if (!dr) return;
    size_ = cell_size(s.cell).gates * s.N * s.D * s.D;
    if constexpr (!std::is_same_v<S, bf16>) { // bf16 are multiplied two steps at a time
        inside_ = fits_inside<S>(s);
        parts_ = parts_of_rows(s);
        if (inside_ && parts_ > 1) sums_ = Block<S>(size_inside());
        if (inside_) p.dr = parts_ == 1 ? dr : sums_.data();
    }
    if (!inside_ && cell_size(s.cell).separates) p.dq = steps_by_head<S>(s, dq_);
}

template <class S> void WeightGradient<S>::finish(const RnnBackward<S>& p) {
    if (!dr_) return;
    if constexpr (std::is_same_v<S, bf16>) { // accumulated as floats, and rounded once at the end
        sums_ = Block<float>(size_);
        Product<S>{p, sums_.data(), dr_}.run();
    } else if (!inside_) {
        Product<S>{p, dr_}.run();
    } else if (parts_ > 1) {
        in_shares(size_, [this, parts = p.dr](int64_t begin, int64_t end) {
            std::copy(parts + begin, parts + end, dr_ + begin);
            for (int64_t part = 1; part < parts_; ++part)
                for (int64_t i = begin; i < end; ++i) dr_[i] += parts[part * size_ + i];
        });
    }
}

template class WeightGradient<float>;
template class WeightGradient<double>;
template class WeightGradient<bf16>;

} // namespace fastiter::rnn
