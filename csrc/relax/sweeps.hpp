// Shared by all matrix layouts: permutation of the rows, teams of threads, sequences of sweeps.
#pragma once
#include "core/dispatch.hpp"
#include "core/launch.hpp"
#include "relax/matrix.hpp"
#include <algorithm>

namespace fastiter::relax {

inline double wide(float x) { return double(x); }
inline double wide(double x) { return x; }
inline Complex wide(Complex x) { return x; }
inline double inverse_of(double x) { return 1 / x; }
inline Complex inverse_of(Complex x) {
    const double ratio = std::abs(x.re) >= std::abs(x.im) ? x.im / x.re : x.re / x.im;
    if (std::abs(x.re) >= std::abs(x.im)) {
        const double scale = 1 / (x.re + x.im * ratio);
        return {scale, -ratio * scale};
    }
    const double scale = 1 / (x.re * ratio + x.im);
    return {ratio * scale, -scale};
}
inline bool is_zero(double x) { return x == 0; }
inline bool is_zero(Complex x) { return x.re == 0 && x.im == 0; }

// This thread's part of [first, last)
inline std::pair<int64_t, int64_t> part_of(int64_t first, int64_t last, Team team) {
    const int64_t count = last - first;
    return {first + count * team.id / team.size, first + count * (team.id + 1) / team.size};
}

// A Layout has: n, vector rows of the copy; rows, vector rows of the caller; order (empty: the caller's order);
// entries; colours(); is_serial(k, jacobi); sweep(step, colour, team); residual(r, first, last); chunks().
template <class V, class Layout> class Relaxed : public RelaxMatrix {
public:
    explicit Relaxed(Layout layout) : m_(std::move(layout)), place_(size_t(is_permuted() ? m_.rows : 0)) {
        for (size_t i = 0; i < m_.order.size(); ++i) {
            const int32_t row = m_.order[i];
            if (row < 0)
                padding_.push_back(int32_t(i));
            else
                place_[size_t(row)] = int32_t(i);
        }
    }

    void sweep(void* x, const void* b, void* d, int64_t k, const Sweeps& sweeps) override {
        const bool moves = sweeps.kind == SweepKind::jacobi, copies = is_permuted();
        const int64_t size = m_.n * k;
        Call call{static_cast<V*>(x), static_cast<const V*>(b), static_cast<V*>(d), k, &sweeps};
        const int64_t buffers = (copies ? 2 + (d != nullptr) : 0) + moves;
        auto prepare = [&](int threads) {
            V* next = static_cast<V*>(workspace.of(size_t(std::max<int64_t>(1, buffers * size)) * sizeof(V)));
            auto take = [&] { return std::exchange(next, next + size); };
            call.own_x = copies ? take() : call.x;
            call.own_b = copies ? take() : const_cast<V*>(call.b);
            call.own_d = copies && d ? take() : call.d;
            call.other = moves ? take() : nullptr;
            return m_.is_serial(k, moves) ? 1 : useful(k, threads);
        };
        launch([&](Team team) { sweep_in(call, team); }, prepare);
    }

    void residual(const void* x, const void* b, void* r, int64_t k, double* norms) override {
        const bool copies = is_permuted();
        const int64_t size = m_.n * k, chunks = m_.chunks();
        std::vector<double> parts(size_t(chunks * k));
        Call call{static_cast<V*>(r), static_cast<const V*>(b), nullptr, k, nullptr};
        call.input = static_cast<const V*>(x);
        call.norms = parts.data();
        auto prepare = [&](int threads) {
            const int64_t buffers = copies ? 2 + (r != nullptr) : 0;
            V* next = static_cast<V*>(workspace.of(size_t(std::max<int64_t>(1, buffers * size)) * sizeof(V)));
            call.own_x = copies ? next : const_cast<V*>(call.input);
            call.own_b = copies ? next + size : const_cast<V*>(call.b);
            call.other = copies && r ? next + 2 * size : call.x;
            return useful(k, threads);
        };
        launch([&](Team team) { residual_in(call, team); }, prepare);
        for (int64_t c = 0; c < k; ++c) norms[c] = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            for (int64_t c = 0; c < k; ++c) norms[c] += parts[size_t(chunk * k + c)];
    }

private:
    struct Call {
        V* x;
        const V* b;
        V* d;
        int64_t k;
        const Sweeps* sweeps;
        V *own_x = nullptr, *own_b = nullptr, *own_d = nullptr, *other = nullptr;
        const V* input = nullptr;
        double* norms = nullptr;
    };

    bool is_permuted() const { return !m_.order.empty(); }

    int useful(int64_t k, int threads) const {
        constexpr int64_t kEntries = 16384; // as many as a thread processes while a team starts
        return threads_for(m_.entries * k, kEntries, threads);
    }

    // Permutes rows of the caller to rows of the copy, and back; padding is 0. Loops over the caller's rows: rows of
    // one colour are far apart there but contiguous in the copy, so that one pass touches each cache line once.
    void permute(const V* from, V* to, int64_t k, Team team) const {
        const auto [first, last] = part_of(0, m_.rows, team);
        const int32_t* place = place_.data();
        if (k == 1)
            for (int64_t i = first; i < last; ++i) to[place[i]] = from[i];
        else
            for (int64_t i = first; i < last; ++i) std::copy_n(from + i * k, k, to + place[i] * k);
        if (team.id == 0)
            for (int32_t i : padding_) std::fill_n(to + i * k, k, V{});
    }
    void permute_back(const V* from, V* to, int64_t k, Team team) const {
        const auto [first, last] = part_of(0, m_.rows, team);
        const int32_t* place = place_.data();
        if (k == 1)
            for (int64_t i = first; i < last; ++i) to[i] = from[place[i]];
        else
            for (int64_t i = first; i < last; ++i) std::copy_n(from + place[i] * k, k, to + i * k);
    }

    void sweep_in(const Call& c, Team team) const {
        auto meet = [&] {
            if (team.size > 1) wait(team.barriers[0], team.size);
        };
        if (is_permuted()) {
            permute(c.x, c.own_x, c.k, team);
            permute(c.b, c.own_b, c.k, team);
            if (c.d) permute(c.d, c.own_d, c.k, team);
            meet();
        }
        V *x = c.own_x, *y = c.other ? c.other : c.own_x;
        for (int64_t s = 0; s < c.sweeps->count; ++s) {
            const bool both = c.sweeps->kind == SweepKind::symmetric;
            for (int half = 0; half < (both ? 2 : 1); ++half) {
                RelaxStep<V> step{c.own_b, x, y, c.own_d, c.k, c.sweeps->omega[s], 0, false};
                if (c.own_d) step.momentum = c.sweeps->momentum[s];
                step.backward = both ? half == 1 : c.sweeps->kind == SweepKind::backward;
                const int64_t first = c.sweeps->first, last = c.sweeps->last < 0 ? m_.colours() : c.sweeps->last;
                for (int64_t t = 0; t < last - first; ++t) {
                    m_.sweep(step, step.backward ? last - 1 - t : first + t, team);
                    meet();
                }
                if (c.other) std::swap(x, y);
            }
        }
        if (is_permuted())
            permute_back(x, c.x, c.k, team);
        else if (x != c.x) {
            const auto [first, last] = part_of(0, m_.n * c.k, team);
            std::copy(x + first, x + last, c.x + first);
        }
        if (is_permuted() && c.d) permute_back(c.own_d, c.d, c.k, team);
    }

    void residual_in(const Call& c, Team team) const {
        auto meet = [&] {
            if (team.size > 1) wait(team.barriers[0], team.size);
        };
        if (is_permuted()) {
            permute(c.input, c.own_x, c.k, team);
            permute(c.b, c.own_b, c.k, team);
            meet();
        }
        const auto [first, last] = part_of(0, m_.chunks(), team);
        m_.residual(RelaxResidual<V>{c.own_b, c.own_x, c.other, c.k, c.norms}, first, last);
        if (!is_permuted() || !c.x) return;
        meet();
        permute_back(c.other, c.x, c.k, team);
    }

    Layout m_;
    std::vector<int32_t> place_;   // index in the copy of each row of the caller
    std::vector<int32_t> padding_; // padding rows of the copy
};

// This thread's range of columns of x in tiles of 8, for colours of a single cluster
inline std::pair<int64_t, int64_t> tiles_of(int64_t k, Team team) {
    const int64_t tiles = (k + 7) / 8;
    const auto [first, last] = part_of(0, tiles, team);
    return {std::min(first * 8, k), std::min(last * 8, k)};
}

// Shared by the clustered layouts: threads share the clusters of a colour, or the columns of x if it is a single
// cluster.
struct InClusters {
    Clusters clusters;
    int64_t colours() const { return int64_t(clusters.colours.size()) - 1; }
    bool is_serial(int64_t k, bool) const { return clusters.rows.size() == 2 && k <= 8; }

    template <class M, class V>
    void sweep_by(void (*kernel)(const M&, const RelaxStep<V>&, int64_t, int64_t, int64_t, int64_t), const M& m,
                  const RelaxStep<V>& step, int64_t colour, Team team) const {
        const int64_t first = clusters.colours[size_t(colour)], last = clusters.colours[size_t(colour) + 1];
        if (last - first == 1) {
            const auto [column, end] = tiles_of(step.k, team);
            if (column < end) kernel(m, step, first, last, column, end - column);
        } else {
            const auto [begin, end] = part_of(first, last, team);
            kernel(m, step, begin, end, 0, step.k);
        }
    }
};

} // namespace fastiter::relax
