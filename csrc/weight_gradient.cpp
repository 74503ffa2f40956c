// dr[g, n, i, j] = sum over rows and steps of dp[g, n, i] h_before[n, j], where dp is the gradient of r h + b. The steps that
// have a step before them are one product, straight from the arrays; h before the first step is a second, small one.
#include "run.hpp"
#include <algorithm>
#include <bit>
#include <vector>

namespace fastiter {
namespace {

template <class T> T* at(const Steps<T>& s, const RnnShape& shape, int64_t row, int64_t t) {
    if (shape.offsets) return s.data + (shape.offsets[t] + row) * s.row;
    return s.data + (shape.starts ? shape.starts[row] * s.time : row * s.row) + t * s.time;
}

// Lines (time, row) as one index: regular where time is outermost in memory
SplitIndex lines(int64_t B, int64_t time, int64_t row) {
    if (time == B * row) return {INT64_MAX, 0, row};
    return {std::max<int64_t>(B, 1), time, row};
}

template <class T> struct WeightGradient {
    const RnnBackward<T>& p;
    T* dr;
    const RnnShape& s = p.shape;
    const int64_t G = cell_size(s.cell).gates, N = s.N, D = s.D;

    // Gates [first, first + count) of dr from `rows` lines of dp, whose gates are `gate` apart, and of h
    void product(const T* dp, int64_t gate, SplitIndex dp_rows, const T* h, SplitIndex h_rows, int64_t rows,
                 int64_t first, int64_t count, bool accumulate) const {
        Gemm<T> g;
        g.M = count * D, g.N = D, g.K = rows;
        g.a = dp, g.a_m = {D, gate, 1}, g.a_k = dp_rows;
        g.b = h, g.b_k = h_rows;
        g.c = dr, g.c_m = {D, N * D * D, D};
        g.c += first * N * D * D;
        g.accumulate = accumulate;
        run_gemm(g);
    }

    // Both parts of dp: dwx, and for the gate whose dp is not its dx, dq
    template <class F> void for_each_part(F f) const {
        const int64_t from_dwx = p.dq.data ? G - 1 : G;
        f(p.dwx, 0, from_dwx);
        if (p.dq.data) f(p.dq, from_dwx, 1);
    }

    void shifted() {
        for_each_part([&](const Steps<T>& d, int64_t first, int64_t count) {
            const Steps<const T>& h = p.states.h;
            const int64_t steps = std::max<int64_t>(s.T - 1, 0);
            for (int64_t n = 0; n < N; ++n)
                head(n).product(d.data + n * d.head + (s.reverse ? 0 : d.time), d.gate, lines(s.B, d.time, d.row),
                                h.data + n * h.head + (s.reverse ? h.time : 0), lines(s.B, h.time, h.row), steps * s.B,
                                first, count, false);
        });
    }

    WeightGradient head(int64_t n) const { return {p, dr + n * D * D}; }

    // dp of each row's first step, side by side, times the initial h
    void initial() {
        if (!p.first.h) return;
        for_each_part([&](const Steps<T>& d, int64_t first, int64_t count) {
            std::vector<T> dp(size_t(s.B * count * N * D), T(0));
            for (int64_t row = 0; row < s.B; ++row) {
                const int64_t length = s.lengths ? s.lengths[row] : s.T;
                if (length == 0) continue;
                const T* from = at(d, s, row, s.reverse ? length - 1 : 0);
                for (int64_t g = 0; g < count; ++g)
                    for (int64_t n = 0; n < N; ++n)
                        std::copy_n(from + g * d.gate + n * d.head, D, &dp[size_t(((row * count + g) * N + n) * D)]);
            }
            for (int64_t n = 0; n < N; ++n)
                head(n).product(dp.data() + n * D, N * D, {INT64_MAX, 0, count * N * D}, p.first.h + n * D,
                                {INT64_MAX, 0, N * D}, s.B, first, count, true);
        });
    }

    // Where the h before a step is in no regular place, or is dropped, it is copied out first.
    void gathered() {
        const Steps<const T>& h = p.states.h;
        const bool packed = s.offsets || s.starts;
        const int64_t count = packed ? s.packed_rows : s.B * s.T;
        auto line = [&](int64_t row, int64_t t) {
            return s.offsets ? s.offsets[t] + row : s.starts ? s.starts[row] + t : t * s.B + row;
        };
        std::vector<T> before(size_t(count * N * D));
        for (int64_t row = 0; row < s.B; ++row)
            for (int64_t t = 0, length = s.lengths ? s.lengths[row] : s.T; t < length; ++t) {
                if (s.is_reset(row, t)) continue;
                const bool is_first = s.reverse ? t == length - 1 : t == 0;
                T* to = &before[size_t(line(row, t) * N * D)];
                for (int64_t n = 0; n < N; ++n) {
                    if (!is_first)
                        std::copy_n(at(h, s, row, s.reverse ? t + 1 : t - 1) + n * h.head, D, to + n * D);
                    else if (p.first.h)
                        std::copy_n(p.first.h + (row * N + n) * D, D, to + n * D);
                }
            }
        for_each_part([&](const Steps<T>& d, int64_t first, int64_t gates) {
            const SplitIndex rows = s.offsets  ? SplitIndex{INT64_MAX, 0, d.row}
                                    : s.starts ? SplitIndex{INT64_MAX, 0, d.time}
                                               : lines(s.B, d.time, d.row);
            for (int64_t n = 0; n < N; ++n)
                head(n).product(d.data + n * d.head, d.gate, rows, before.data() + n * D, {INT64_MAX, 0, N * D}, count,
                                first, gates, false);
        });
    }
};

float widened(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
bf16 narrowed(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if (x != x) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
std::vector<float> widened(const bf16* x, int64_t count) {
    std::vector<float> copy(size_t(count), 0.0f);
    for (int64_t i = 0; i < count; ++i) copy[size_t(i)] = widened(x[i]);
    return copy;
}

// Steps as floats, time outermost where it is not packed
struct Widened {
    const RnnShape& shape;
    const int64_t gates, width = gates * shape.N * shape.D;
    const bool packed = shape.offsets || shape.starts;
    mutable std::vector<float> values;

    template <class X> Widened(const RnnShape& s, const Steps<X>& from, int64_t gates_) : shape(s), gates(gates_) {
        if (!from.data) return;
        const int64_t times = packed ? 1 : s.T, rows = packed ? s.packed_rows : s.B;
        const int64_t row_stride = s.starts ? from.time : from.row;
        values.resize(size_t(times * rows * width));
        float* to = values.data();
        for (int64_t t = 0; t < times; ++t)
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t i = 0; i < gates * s.N; ++i, to += s.D) {
                    const auto* line =
                        from.data + row * row_stride + t * from.time + i / s.N * from.gate + i % s.N * from.head;
                    for (int64_t d = 0; d < s.D; ++d) to[d] = widened(line[d]);
                }
    }
    template <class X> Steps<X> steps() const {
        if (values.empty()) return {};
        const int64_t time = shape.starts ? width : shape.B * width;
        return {values.data(), width, time, shape.N * shape.D, shape.D};
    }
};

} // namespace

template <class T> void weight_gradient(const RnnBackward<T>& p, T* dr) {
    WeightGradient<T> gradient{p, dr};
    if (p.shape.offsets || p.shape.starts || p.shape.reset) return gradient.gathered();
    gradient.shifted();
    gradient.initial();
}

// Of bf16: widened copies, and one rounding at the end
template <> void weight_gradient(const RnnBackward<bf16>& p, bf16* dr) {
    const RnnShape& s = p.shape;
    const int64_t gates = cell_size(s.cell).gates, size = gates * s.N * s.D * s.D;
    const Widened h(s, p.states.h, 1), dwx(s, p.dwx, gates), dq(s, p.dq, 1);
    const std::vector<float> first = widened(p.first.h, p.first.h ? s.B * s.N * s.D : 0);
    std::vector<float> sum(static_cast<size_t>(size));
    RnnBackward<float> q;
    q.shape = s;
    q.states.h = h.steps<const float>(), q.dwx = dwx.steps<float>(), q.dq = dq.steps<float>();
    q.first.h = first.empty() ? nullptr : first.data();
    weight_gradient(q, sum.data());
    for (int64_t i = 0; i < size; ++i) dr[i] = narrowed(sum[size_t(i)]);
}

template void weight_gradient(const RnnBackward<float>&, float*);
template void weight_gradient(const RnnBackward<double>&, double*);

} // namespace fastiter
