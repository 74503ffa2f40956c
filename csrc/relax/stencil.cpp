// Matrix-free stencils: only the coefficients are stored, and one pass over the grid does several sweeps.
#include "relax/sweeps.hpp"

namespace fastiter::relax {
namespace {

template <class T> constexpr T one = T(1);
template <> constexpr Complex one<Complex> = {1, 0};

template <class T> class StencilMatrix : public RelaxMatrix {
public:
    StencilMatrix(const int64_t (&grid)[3], const T* coefficients, bool is_constant, const uint8_t* fixed,
                  const StencilOrder& order)
        : red_black_(order.red_black), projections_(order.projections), clusters_(order.clusters) {
        const int64_t points = grid[0] * grid[1] * grid[2], count = is_constant ? 1 : points;
        coefficients_ = Block<T>(7 * count);
        zeros_ = Block<T>(grid[2]);
        std::copy(coefficients, coefficients + 7 * count, coefficients_.data());
        std::fill(zeros_.data(), zeros_.data() + grid[2], T{});
        if (order.order) order_.assign(order.order, order.order + points);
        if (!is_constant || fixed) inverse_ = Block<T>(points);
        for (int64_t i = 0; i < (inverse_.size() ? points : 1); ++i) {
            const T centre = coefficients[is_constant ? 0 : i];
            const bool is_fixed = fixed && fixed[i];
            if (is_zero(wide(centre)) && !is_fixed && !projections_) throw SingularRow(i);
            // for projections, only marks the points that are not fixed
            const T inverse = projections_ ? one<T> : T(inverse_of(wide(centre)));
            if (inverse_.size()) inverse_[i] = is_fixed ? T{} : inverse;
            if (is_constant) m_.constant_inverse = inverse;
        }
        m_.n0 = grid[0];
        m_.n1 = grid[1];
        m_.n2 = grid[2];
        for (int64_t q = 0; q < 7; ++q) m_.coefficient[q] = coefficients_.data() + q * count;
        m_.is_constant = is_constant;
        m_.zeros = zeros_.data();
        m_.inverse = inverse_.size() ? inverse_.data() : nullptr;
    }

    void sweep(void* x, const void* b, void* d, int64_t, const Sweeps& sweeps) override {
        const bool moves = sweeps.kind == SweepKind::jacobi;
        Call call{static_cast<T*>(x), static_cast<const T*>(b), static_cast<T*>(d), nullptr, &sweeps};
        auto kernel = [&](Team team) {
            if (call.other)
                jacobi_in(call, team);
            else if (red_black_)
                red_black_in(call, team);
            else if (!order_.empty() && !projections_)
                listed_in(call, team);
            else
                natural_in(call);
        };
        launch(kernel, [&](int threads) {
            if (moves) call.other = static_cast<T*>(workspace.of(size_t(points()) * sizeof(T)));
            return moves || red_black_ || clusters_.rows.size() > 2 ? useful(threads) : 1;
        });
    }

    void residual(const void* x, const void* b, void* r, int64_t, double* norms) override {
        std::vector<double> parts(size_t(m_.n0));
        RelaxResidual<T> call{static_cast<const T*>(b), static_cast<const T*>(x), static_cast<T*>(r), 1, parts.data()};
        auto kernel = [&](Team team) {
            const auto [first, last] = part_of(0, m_.n0, team);
            stencil_kernels().of<StencilKernelsOf<T>>().residual(m_, call, first, last);
        };
        launch(kernel, [&](int threads) { return useful(threads); });
        *norms = 0;
        for (double part : parts) *norms += part;
    }

private:
    struct Call {
        T* x;
        const T* b;
        T *d, *other;
        const Sweeps* sweeps;
    };

    int64_t points() const { return m_.n0 * m_.n1 * m_.n2; }
    int useful(int threads) const {
        constexpr int64_t kPoints = 32768; // as many as a thread processes while a team starts
        return threads_for(points(), kPoints, threads);
    }

    void jacobi_in(const Call& c, Team team) const {
        const auto [first, last] = part_of(0, m_.n0, team);
        T *x = c.x, *y = c.other;
        for (int64_t s = 0; s < c.sweeps->count; ++s) {
            RelaxStep<T> step{c.b, x, y, c.d, 1, c.sweeps->omega[s], c.d ? c.sweeps->momentum[s] : 0, false};
            stencil_kernels().of<StencilKernelsOf<T>>().whole(m_, step, first, last);
            if (team.size > 1) wait(team.barriers[0], team.size);
            std::swap(x, y);
        }
        const int64_t area = m_.n1 * m_.n2;
        if (x != c.x) std::copy(x + first * area, x + last * area, c.x + first * area);
    }

    void natural_in(const Call& c) const {
        const bool both = c.sweeps->kind == SweepKind::symmetric;
        for (int64_t s = 0; s < c.sweeps->count; ++s)
            for (int half = 0; half < (both ? 2 : 1); ++half) {
                RelaxStep<T> step{c.b, c.x, c.x, nullptr, 1, c.sweeps->omega[s], 0, false};
                step.backward = both ? half == 1 : c.sweeps->kind == SweepKind::backward;
                const auto& kernel = stencil_kernels().of<StencilKernelsOf<T>>();
                if (projections_)
                    kernel.kaczmarz(m_, step, order_.empty() ? nullptr : order_.data());
                else
                    kernel.natural(m_, step);
            }
    }

    // Clusters of one colour are independent, so that the points of several clusters may be processed in any order.
    void listed_in(const Call& c, Team team) const {
        const bool both = c.sweeps->kind == SweepKind::symmetric;
        const int64_t colours = int64_t(clusters_.colours.size()) - 1;
        for (int64_t s = 0; s < c.sweeps->count; ++s)
            for (int half = 0; half < (both ? 2 : 1); ++half) {
                RelaxStep<T> step{c.b, c.x, c.x, nullptr, 1, c.sweeps->omega[s], 0, false};
                step.backward = both ? half == 1 : c.sweeps->kind == SweepKind::backward;
                for (int64_t t = 0; t < colours; ++t) {
                    const size_t colour = size_t(step.backward ? colours - 1 - t : t);
                    const auto [first, last] = part_of(clusters_.colours[colour], clusters_.colours[colour + 1], team);
                    stencil_kernels().of<StencilKernelsOf<T>>().listed(
                        m_, step, order_.data(), clusters_.rows[size_t(first)], clusters_.rows[size_t(last)]);
                    if (team.size > 1) wait(team.barriers[0], team.size);
                }
            }
    }

    // Wavefront of red-black half sweeps, one per colour. A half sweep may process group p of planes once the previous
    // one has done group p + 1. So the half sweeps follow each other through the grid two groups apart, and each finds
    // the data of the previous one in cache. In one tick each processes one group; these independent tasks are
    // distributed over the threads, split into parts of lines if they are too few.
    void red_black_in(const Call& c, Team team) const {
        const bool both = c.sweeps->kind == SweepKind::symmetric;
        const int64_t planes = planes_of_a_task(team.size), groups = (m_.n0 + planes - 1) / planes;
        const int64_t halves = c.sweeps->count * (both ? 4 : 2), deepest = depth(planes);
        for (int64_t begin = 0; begin < halves; begin += deepest) {
            const int64_t count = std::min(deepest, halves - begin);
            for (int64_t tick = 0; tick < groups + 2 * (count - 1); ++tick) {
                // group = tick - 2 h must lie in the grid
                const int64_t low = std::max<int64_t>(0, (tick - groups + 2) / 2), high = std::min(count - 1, tick / 2);
                const int64_t tasks = high - low + 1;
                if (tasks > 0) do_tick(c, team, both, begin, tick, low, tasks, planes);
                if (team.size > 1) wait(team.barriers[0], team.size);
            }
        }
    }

    void do_tick(const Call& c, Team team, bool both, int64_t begin, int64_t tick, int64_t low, int64_t tasks,
                 int64_t planes) const {
        const int64_t parts = (team.size + tasks - 1) / tasks;
        const auto [first, last] = part_of(0, tasks * parts, team);
        for (int64_t item = first; item < last; ++item) {
            const int64_t h = low + item / parts, part = item % parts, group = tick - 2 * h;
            const int64_t half = begin + h, sweep = half / (both ? 4 : 2), turn = half % (both ? 4 : 2);
            const bool backward = both ? turn >= 2 : c.sweeps->kind == SweepKind::backward;
            const RelaxStep<T> step{c.b, c.x, c.x, nullptr, 1, c.sweeps->omega[sweep], 0, false};
            const int64_t from = m_.n2 * part / parts, to = m_.n2 * (part + 1) / parts;
            for (int64_t plane = group * planes; plane < std::min(m_.n0, (group + 1) * planes); ++plane)
                stencil_kernels().of<StencilKernelsOf<T>>().half(m_, step, plane, (turn % 2) ^ int(backward), from, to);
        }
    }

    // Threads synchronise once per tick, so that a task has to be worth it.
    int64_t planes_of_a_task(int threads) const {
        constexpr int64_t kPoints = 8192;
        return threads == 1 ? 1 : std::max<int64_t>(1, kPoints / std::max<int64_t>(1, m_.n1 * m_.n2));
    }

    // Number of concurrent half sweeps: as many as fit, with two groups each, in half of a cache of 1 MB
    int64_t depth(int64_t planes) const {
        constexpr int64_t kCache = 512 << 10;
        const int64_t arrays = 2 + (m_.inverse ? 1 : 0) + (m_.is_constant ? 0 : m_.n1 > 1 ? 6 : 4);
        const int64_t group = std::max<int64_t>(1, planes * m_.n1 * m_.n2 * arrays * int64_t(sizeof(T)));
        return std::max<int64_t>(planes == 1 ? 2 : 4, kCache / (2 * group));
    }

    bool red_black_, projections_;
    Clusters clusters_;
    std::vector<int32_t> order_;
    Block<T> coefficients_, inverse_, zeros_;
    RelaxStencil<T> m_;
};

} // namespace

template <class T>
std::unique_ptr<RelaxMatrix> prepare_stencil(const int64_t (&grid)[3], const T* coefficients, bool is_constant,
                                             const uint8_t* fixed, const StencilOrder& order) {
    return std::make_unique<StencilMatrix<T>>(grid, coefficients, is_constant, fixed, order);
}

#define FASTITER_INSTANTIATE(T)                                                                                 \
    template std::unique_ptr<RelaxMatrix> prepare_stencil(const int64_t (&)[3], const T*, bool, const uint8_t*, \
                                                          const StencilOrder&);
FASTITER_INSTANTIATE(float)
FASTITER_INSTANTIATE(double)
FASTITER_INSTANTIATE(Complex)

} // namespace fastiter::relax
