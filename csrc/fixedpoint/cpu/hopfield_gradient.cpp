// Gradients of Hopfield updates: through all updates, and at fixed points
#include "fixedpoint/cpu/hopfield_backward.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

// The panels of one thread
template <class T> struct Panels {
    T *xi, *g, *dxi, *more;
    int32_t* index;
    Panels(const HopfieldShape& q, Scratch& scratch) {
        for (T** each : {&xi, &g, &dxi, &more}) *each = scratch.take<T>(q.D * kTileQueries<T>);
        index = scratch.take<int32_t>(kHopfieldChunk);
    }
};

template <class T> class Unrolled {
public:
    static constexpr int W = lanes<T>;

    Unrolled(const HopfieldGradient<T>& p, void* memory, const Partial<T>& sums)
        : p_(p), q_(p.problem.shape), sums_(sums), scratch_(memory), panels_(q_, scratch_), backward_(q_.D, scratch_) {}
    size_t bytes() const { return scratch_.bytes(); }

    void run(int64_t unit, const Team& team) {
        const int64_t number = unit / sums_.chunks(), first = unit % sums_.chunks() * kHopfieldChunk;
        const int64_t end = min_of(first + kHopfieldChunk, q_.L);
        const Problem<T> problem(p_.problem, number);
        at_ = number * q_.L;
        dstored_ = sums_.dstored(unit);
        dbeta_ = 0;
        __builtin_memset(dstored_, 0, size_t(q_.S * q_.D) * sizeof(T));
        int64_t longest = 0;
        for (int64_t i = first; i < end; ++i) longest = max_of(longest, p_.steps[at_ + i]);
        for (int64_t step = longest - 1; step >= 0; --step) {
            int64_t count = 0;
            for (int64_t i = first; i < end; ++i)
                if (p_.steps[at_ + i] > step) panels_.index[count++] = int32_t(i);
            for (int64_t i = 0; i < count; i += kTileQueries<T>) {
                const int64_t some = min_of(kTileQueries<T>, count - i);
                if (has_to_stop(team, 10 * some * q_.S * max_of(q_.D, 1))) return;
                with_count<kTileVectors>(int(ceil_div(some, W)),
                                         [&]<int NV>() { tile<NV>(problem, panels_.index + i, some, step); });
            }
        }
        *sums_.dbeta(unit) = dbeta_;
    }

private:
    template <int NV> void tile(const Problem<T>& problem, const int32_t* index, int64_t count, int64_t step) {
        const int64_t every = q_.problems() * q_.L, place = step * every + at_;
        T* const gradient = p_.gradient + at_ * q_.D;
        BackwardTile<T> t{index, count, panels_.xi, panels_.g, {}, {}, {}};
        gather(p_.states + place * q_.D, q_.D, index, count, q_.D, panels_.xi, NV * W);
        gather<T>(gradient, q_.D, index, count, q_.D, panels_.g, NV * W);
        gather(p_.states + (place + every) * q_.D, q_.D, index, count, q_.D, panels_.more, NV * W);
        gather_lanes<T>(p_.softmax.largest + place, index, count, t.largest);
        gather_lanes<T>(p_.softmax.inverse + place, index, count, t.inverse);
        t.c = dots(panels_.g, panels_.more, q_.D, NV);
        backward_.template run<NV>(problem, t, panels_.dxi, dstored_);
        dbeta_ += total(dots(panels_.xi, panels_.dxi, q_.D, NV), count);
        for (int64_t i = 0; i < q_.D * NV * W; i += W) store(panels_.dxi + i, load(panels_.dxi + i) * problem.beta);
        scatter(panels_.dxi, NV * W, index, count, q_.D, gradient, q_.D);
    }

    const HopfieldGradient<T>& p_;
    const HopfieldShape& q_;
    const Partial<T>& sums_;
    Scratch scratch_;
    Panels<T> panels_;
    Backward<T> backward_;
    T* dstored_ = nullptr;
    T dbeta_ = 0;
    int64_t at_ = 0;
};

// Conjugate gradients for (I - J) u = gradient, each lane a separate system
template <class T> class Adjoint {
public:
    static constexpr int W = lanes<T>;

    Adjoint(const HopfieldAdjoint<T>& p, void* memory, const Partial<T>& sums)
        : p_(p), q_(p.problem.shape), sums_(sums), scratch_(memory), panels_(q_, scratch_), backward_(q_.D, scratch_) {
        for (T** each : {&u_, &r_}) *each = scratch_.template take<T>(q_.D * kTileQueries<T>);
        block_ = scratch_.template take<T>(kPatterns * kTileQueries<T>);
    }
    size_t bytes() const { return scratch_.bytes(); }

    void run(int64_t unit, const Team& team) {
        const int64_t number = unit / sums_.chunks(), first = unit % sums_.chunks() * kHopfieldChunk;
        const int64_t end = min_of(first + kHopfieldChunk, q_.L);
        const Problem<T> problem(p_.problem, number);
        at_ = number * q_.L;
        dstored_ = sums_.dstored(unit);
        dbeta_ = 0;
        __builtin_memset(dstored_, 0, size_t(q_.S * q_.D) * sizeof(T));
        for (int64_t i = first; i < end; i += kTileQueries<T>) {
            const int64_t some = min_of(kTileQueries<T>, end - i);
            for (int64_t l = 0; l < some; ++l) panels_.index[l] = int32_t(i + l);
            with_count<kTileVectors>(int(ceil_div(some, W)), [&]<int NV>() { tile<NV>(problem, some, team); });
        }
        *sums_.dbeta(unit) = dbeta_;
    }

private:
    template <int NV> void tile(const Problem<T>& problem, int64_t count, const Team& team) {
        BackwardTile<T> t{panels_.index, count, panels_.xi, panels_.g, {}, {}, {}};
        gather(p_.states + at_ * q_.D, q_.D, t.index, count, q_.D, panels_.xi, NV * W);
        problem.template associate<NV>(panels_.xi, t.index, count, block_, panels_.more, t.largest, t.inverse);
        gather(p_.gradient + at_ * q_.D, q_.D, t.index, count, q_.D, panels_.g, NV * W);
        const Lanes<T> size = normalize<NV>();
        solve<NV>(problem, t, team);
        for (int64_t d = 0; d < q_.D; ++d)
            for (int v = 0; v < NV; ++v) {
                const int64_t at = (d * NV + v) * W;
                store(panels_.g + at, load(u_ + at) * size.of[v]);
                store(u_ + at, load(panels_.g + at));
            }
        t.c = dots(u_, panels_.more, q_.D, NV);
        backward_.template run<NV>(problem, t, panels_.dxi, dstored_);
        dbeta_ += total(dots(panels_.xi, panels_.dxi, q_.D, NV), count);
    }

    // Divides the gradients by their largest magnitudes, which are returned, so that no square underflows.
    template <int NV> Lanes<T> normalize() const {
        Lanes<T> size = {};
        for (int64_t d = 0; d < q_.D; ++d)
            for (int v = 0; v < NV; ++v)
                size.of[v] = max_keeping_nan(size.of[v], magnitude<T>(load(panels_.g + (d * NV + v) * W)));
        for (int64_t d = 0; d < q_.D; ++d)
            for (int v = 0; v < NV; ++v) {
                T* at = panels_.g + (d * NV + v) * W;
                store(at, select<T>(size.of[v] == vec<T>{}, vec<T>{}, load(at) / size.of[v]));
            }
        return size;
    }

    // panels_.g holds the gradient, then the search direction; u_ the solution, r_ its residual
    template <int NV> void solve(const Problem<T>& problem, BackwardTile<T>& t, const Team& team) {
        const int64_t size = q_.D * NV * W;
        __builtin_memset(u_, 0, size_t(size) * sizeof(T));
        __builtin_memcpy(r_, panels_.g, size_t(size) * sizeof(T));
        Lanes<T> square = dots(r_, r_, q_.D, NV), goal = {}, active = {}, result = {};
        const Lanes<T> whole = square;
        const T tolerance = T(p_.rtol * p_.rtol);
        for (int v = 0; v < NV; ++v) goal.of[v] = whole.of[v] * tolerance;
        for (int64_t step = 0; step < p_.max_steps; ++step) {
            bool more = false;
            for (int v = 0; v < NV; ++v) { // a NaN residual counts as not converged, and is reported
                const mask<T> is_done = square.of[v] <= goal.of[v];
                active.of[v] = select<T>(is_done, vec<T>{}, broadcast(T(1)));
                more = more || any<T>(~is_done);
            }
            if (!more || has_to_stop(team, 6 * t.count * q_.S * max_of(q_.D, 1))) break;
            t.c = dots(panels_.g, panels_.more, q_.D, NV);
            backward_.template run<NV>(problem, t, panels_.dxi, nullptr);
            advance<NV>(problem.beta, active, square);
        }
        for (int v = 0; v < NV; ++v)
            result.of[v] = select<T>(square.of[v] <= goal.of[v], vec<T>{}, square.of[v] / whole.of[v]);
        T ratio[kTileQueries<T>];
        for (int v = 0; v < kTileVectors; ++v) store(ratio + v * W, result.of[v]);
        for (int64_t l = 0; l < t.count; ++l) p_.residual[at_ + t.index[l]] = T(__builtin_sqrt(double(ratio[l])));
    }

    // One step of the method; lanes that have converged are left unchanged.
    template <int NV> void advance(T beta, const Lanes<T>& active, Lanes<T>& square) {
        const int64_t size = q_.D * NV * W;
        T* const direction = panels_.g;
        T* const applied = panels_.dxi; // (I - J) direction
        for (int64_t i = 0; i < size; i += W) store(applied + i, load(direction + i) - load(applied + i) * beta);
        const Lanes<T> curvature = dots(direction, applied, q_.D, NV);
        vec<T> along[NV];
        for (int v = 0; v < NV; ++v)
            along[v] = select<T>(active.of[v] == vec<T>{}, vec<T>{}, square.of[v] / curvature.of[v]);
        for (int64_t d = 0; d < q_.D; ++d)
            for (int v = 0; v < NV; ++v) {
                const int64_t at = (d * NV + v) * W;
                const mask<T> rests = active.of[v] == vec<T>{};
                store(u_ + at, select<T>(rests, load(u_ + at), fma(along[v], load(direction + at), load(u_ + at))));
                store(r_ + at, select<T>(rests, load(r_ + at), fma(-along[v], load(applied + at), load(r_ + at))));
            }
        const Lanes<T> next = dots(r_, r_, q_.D, NV);
        for (int64_t d = 0; d < q_.D; ++d)
            for (int v = 0; v < NV; ++v) {
                const int64_t at = (d * NV + v) * W;
                const vec<T> turned = fma(load(direction + at), next.of[v] / square.of[v], load(r_ + at));
                store(direction + at, select<T>(active.of[v] == vec<T>{}, load(direction + at), turned));
            }
        for (int v = 0; v < NV; ++v) square.of[v] = next.of[v];
    }

    const HopfieldAdjoint<T>& p_;
    const HopfieldShape& q_;
    const Partial<T>& sums_;
    Scratch scratch_;
    Panels<T> panels_;
    Backward<T> backward_;
    T *u_ = nullptr, *r_ = nullptr, *block_ = nullptr, *dstored_ = nullptr;
    T dbeta_ = 0;
    int64_t at_ = 0;
};

// Workspace for both kinds of gradients: partial sums, shared by all threads, then a workspace for each thread
template <template <class> class Kind, class P, class T> size_t workspace_of(const P& p, int threads) {
    Scratch shared(nullptr);
    const Partial<T> sums(p.problem.shape, p.dstored, p.dbeta, shared);
    return shared.bytes() + size_t(threads) * Kind<T>(p, nullptr, sums).bytes();
}

template <template <class> class Kind, class P, class T> void run(const P& p, Team team) {
    Scratch shared(p.workspace);
    const Partial<T> sums(p.problem.shape, p.dstored, p.dbeta, shared);
    const size_t bytes = Kind<T>(p, nullptr, sums).bytes();
    Kind<T> kernel(p, static_cast<char*>(p.workspace) + shared.bytes() + size_t(team.id) * bytes, sums);
    for (int64_t unit = team.id; unit < sums.units(); unit += team.size) kernel.run(unit, team);
    if (sums.chunks() == 1) return;
    wait(team.barriers[0], team.size);
    sums.add(team);
}

template <class T>
constexpr HopfieldGradientTable<T> gradient_for = {
    workspace_of<Unrolled, HopfieldGradient<T>, T>,
    run<Unrolled, HopfieldGradient<T>, T>,
    workspace_of<Adjoint, HopfieldAdjoint<T>, T>,
    run<Adjoint, HopfieldAdjoint<T>, T>,
};

} // namespace

const HopfieldGradientKernels hopfield_gradient_kernels = {gradient_for<float>, gradient_for<double>};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
