// Updates queries until each has converged.
#include "fixedpoint/cpu/hopfield.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {

FASTITER_ALL_HOPFIELD_TILES(, float)
FASTITER_ALL_HOPFIELD_TILES(, double)

namespace {

template <class T> class Updates {
public:
    static constexpr int W = lanes<T>;

    Updates(const HopfieldUpdate<T>& p, void* memory) : p_(p), q_(p.problem.shape), scratch_(memory) {
        xi_ = scratch_.template take<T>(q_.D * kTileQueries<T>);
        out_ = scratch_.template take<T>(q_.D * kTileQueries<T>);
        block_ = scratch_.template take<T>(kPatterns * kTileQueries<T>);
        active_ = scratch_.template take<int32_t>(p.chunk);
    }
    size_t bytes() const { return scratch_.bytes(); }

    int64_t chunks() const { return ceil_div(q_.L, p_.chunk); }

    void run(int64_t unit, const Team& team) {
        const int64_t number = unit / chunks(), first = unit % chunks() * p_.chunk;
        const int64_t count = min_of(p_.chunk, q_.L - first), b = number / q_.heads, h = number % q_.heads;
        const Problem<T> problem(p_.problem, number);
        at_ = number * q_.L;
        value_ = p_.value.data + b * p_.value.batch + h * p_.value.head;
        const T* state = p_.state.data + b * p_.state.batch + h * p_.state.head;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t query = first + i;
            active_[i] = int32_t(query);
            copy(state + query * p_.state.row, value_ + query * p_.value.row);
            p_.steps[at_ + query] = 0;
            p_.converged[at_ + query] = 0;
            p_.residual[at_ + query] = T(__builtin_inf());
        }
        if (p_.states) keep(active_, count, 0);
        int64_t left = count;
        for (int64_t step = 0; step < p_.max_steps && left > 0; ++step) {
            for (int64_t i = 0; i < left; i += kTileQueries<T>) {
                const int64_t some = min_of(kTileQueries<T>, left - i);
                if (has_to_stop(team, 4 * some * q_.S * max_of(q_.D, 1))) return;
                with_count<kTileVectors>(int(ceil_div(some, W)),
                                         [&]<int NV>() { update<NV>(problem, active_ + i, some, step); });
            }
            if (p_.states) keep(active_, left, step + 1);
            left = still_active(left);
        }
    }

private:
    void copy(const T* from, T* to) const {
        for (int64_t d = 0; d < q_.D; d += W) store_up_to(to + d, load_up_to(from + d, q_.D - d), q_.D - d);
    }

    void keep(const int32_t* index, int64_t count, int64_t step) const {
        T* to = p_.states + (step * q_.problems() * q_.L + at_) * q_.D;
        for (int64_t i = 0; i < count; ++i) copy(value_ + index[i] * p_.value.row, to + index[i] * q_.D);
    }

    int64_t still_active(int64_t count) {
        if (!p_.stops) return count;
        int64_t left = 0;
        for (int64_t i = 0; i < count; ++i)
            if (!p_.converged[at_ + active_[i]]) active_[left++] = active_[i];
        return left;
    }

    template <int NV> void update(const Problem<T>& problem, const int32_t* index, int64_t count, int64_t step) {
        Lanes<T> largest = {}, inverse = {};
        gather(value_, p_.value.row, index, count, q_.D, xi_, NV * W);
        problem.template associate<NV>(xi_, index, count, block_, out_, largest, inverse);
        if (p_.softmax.largest) {
            const int64_t place = step * q_.problems() * q_.L + at_;
            scatter_lanes(largest, index, count, p_.softmax.largest + place);
            scatter_lanes(inverse, index, count, p_.softmax.inverse + place);
        }
        scatter(out_, NV * W, index, count, q_.D, value_, p_.value.row);
        judge<NV>(index, count);
    }

    // Computes the change of each query and whether it is small enough.
    template <int NV> void judge(const int32_t* index, int64_t count) {
        for (int64_t i = 0; i < q_.D * NV * W; i += W) store(xi_ + i, load(out_ + i) - load(xi_ + i));
        const Lanes<T> change = dots(xi_, xi_, q_.D, NV), size = dots(out_, out_, q_.D, NV);
        T changes[kTileQueries<T>] = {}, sizes[kTileQueries<T>] = {};
        for (int v = 0; v < NV; ++v) {
            store(changes + v * W, change.of[v]);
            store(sizes + v * W, size.of[v]);
        }
        for (int64_t l = 0; l < count; ++l) {
            const int64_t place = at_ + index[l];
            const double moved = __builtin_sqrt(double(changes[l])), norm = __builtin_sqrt(double(sizes[l]));
            p_.residual[place] = T(moved);
            p_.converged[place] = moved <= p_.atol + p_.rtol * norm;
            ++p_.steps[place];
        }
    }

    const HopfieldUpdate<T>& p_;
    const HopfieldShape& q_;
    Scratch scratch_;
    T *xi_ = nullptr, *out_ = nullptr, *block_ = nullptr, *value_ = nullptr;
    int32_t* active_ = nullptr;
    int64_t at_ = 0; // index of the problem's first query in arrays (batch, head, query)
};

template <class T> size_t workspace(const HopfieldUpdate<T>& p, int threads) {
    return size_t(threads) * Updates<T>(p, nullptr).bytes();
}

template <class T> void update(const HopfieldUpdate<T>& p, Team team) {
    const size_t bytes = Updates<T>(p, nullptr).bytes();
    Updates<T> kernel(p, static_cast<char*>(p.workspace) + size_t(team.id) * bytes);
    const int64_t units = p.problem.shape.problems() * kernel.chunks();
    for (int64_t unit = team.id; unit < units; unit += team.size) kernel.run(unit, team);
}

} // namespace

const HopfieldKernels hopfield_kernels = {{workspace<float>, update<float>}, {workspace<double>, update<double>}};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
