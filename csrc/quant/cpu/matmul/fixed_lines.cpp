// Fixed-point products in any mode: a block of products is written to the first-level cache, assigned to the product
// format or summed in groups if requested, and then added to the accumulators step by step. Two short loops, each with
// its own mode, replace one loop for each pair of modes.
#include "quant/cpu/matmul/fixed_lanes.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

constexpr int kVectors = 4; // independent chains
constexpr int64_t kBlockBytes = 8192;

template <class T, Rounding R, Overflow O> void assign_vectors(T* p, int64_t vectors, const Target<T>& target) {
    const Target<T> t = target;
    for (int64_t v = 0; v < vectors; ++v, p += lanes<T>) store(p, assign<T, R, O>(vec<T>{}, load(p), t));
}

template <class T, Rounding R, Overflow O, int NV>
FASTITER_INLINE void accumulate_lines(T* out, const T* p, int64_t count, const Target<T>& target) {
    const Target<T> t = target;
    vec<T> acc[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[v] = load(out + v * lanes<T>);
    for (int64_t i = 0; i < count; ++i, p += NV * lanes<T>)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[v] = assign<T, R, O>(acc[v], load(p + v * lanes<T>), t);
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(out + v * lanes<T>, acc[v]);
}

template <class T, Rounding R, Overflow O>
void accumulate(T* acc, const T* p, int64_t vectors, int64_t count, const Target<T>& t) {
    if (vectors == kVectors)
        accumulate_lines<T, R, O, kVectors>(acc, p, count, t);
    else
        accumulate_lines<T, R, O, 1>(acc, p, count, t);
}

// Calls f.operator()<R, O>().
template <class F> auto with_modes(Rounding r, Overflow o, F f) {
    return with_rounding(
        r, [&]<Rounding R>() { return with_overflow(o, [&]<Overflow O>() { return f.template operator()<R, O>(); }); });
}

// Sums groups of `every` lines; a group may begin in one block and end in the next.
template <class T, int NV> class Groups {
public:
    explicit Groups(int64_t every) : every_(every) {}

    // Replaces `count` lines by the sums of the complete groups, including the last, shorter one; returns their number.
    int64_t add(T* p, int64_t count, bool is_last) {
        int64_t complete = 0;
        for (int64_t i = 0; i < count; ++i) {
            for (int v = 0; v < NV; ++v) sum_[v] = add_mod<T>(sum_[v], load(p + (i * NV + v) * lanes<T>));
            if (++terms_ < every_ && !(is_last && i + 1 == count)) continue;
            for (int v = 0; v < NV; ++v) {
                store(p + (complete * NV + v) * lanes<T>, sum_[v]);
                sum_[v] = vec<T>{};
            }
            ++complete;
            terms_ = 0;
        }
        return complete;
    }

private:
    int64_t every_, terms_ = 0;
    vec<T> sum_[NV] = {};
};

template <class T, int NV>
void tile(const T* a, int64_t, const T* panel, int64_t K, T* acc, const StepRules<T>& steps) {
    constexpr int64_t kLines = kBlockBytes / int64_t(NV * sizeof(vec<T>));
    alignas(64) T p[kLines * NV * lanes<T>];
    Groups<T, NV> groups(steps.every);
    for (int64_t k0 = 0; k0 < K; k0 += kLines) {
        int64_t count = min_of(kLines, K - k0);
        for (int64_t i = 0; i < count; ++i) {
            const vec<T> x = splat(a[k0 + i]);
            for (int v = 0; v < NV; ++v) {
                const int64_t at = (i * NV + v) * lanes<T>;
                store(p + at, mul_mod<T>(x, load(panel + k0 * NV * lanes<T> + at)));
            }
        }
        if (steps.assign_products) {
            steps.assign_products(p, count * NV, steps.product);
            for (int64_t i = 0; i < count * NV && steps.product_left; ++i)
                store(p + i * lanes<T>, shift_left<T>(load(p + i * lanes<T>), steps.product_left));
        }
        if (steps.every > 1) count = groups.add(p, count, k0 + count == K);
        steps.accumulate(acc, p, NV, count, steps.acc);
    }
}

} // namespace

template <class T> AssignLine<T> assign_line(Rounding r, Overflow o) {
    return with_modes(r, o, []<Rounding R, Overflow O>() -> AssignLine<T> { return assign_vectors<T, R, O>; });
}

template <class T> AccumulateLines<T> accumulate_line(Rounding r, Overflow o) {
    return with_modes(r, o, []<Rounding R, Overflow O>() -> AccumulateLines<T> { return accumulate<T, R, O>; });
}

template <class T> Tiles<T> lines() { return {1, kVectors, tile<T, kVectors>, tile<T, 1>}; }

#define FASTITER_INSTANTIATE(T)                                      \
    template AssignLine<T> assign_line(Rounding, Overflow);          \
    template AccumulateLines<T> accumulate_line(Rounding, Overflow); \
    template Tiles<T> lines();
FASTITER_INSTANTIATE(int32_t)
FASTITER_INSTANTIATE(int64_t)

} // namespace fastiter::quant::FASTITER_LEVEL
