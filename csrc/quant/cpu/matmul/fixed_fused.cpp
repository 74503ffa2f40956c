// All steps in registers: a tile of accumulators stays in registers over the whole k loop, as in tile.hpp, and is
// assigned after each product.
#include "quant/cpu/matmul/fixed_lanes.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

template <class T, FixedProduct P> FASTITER_INLINE vec<T> times(vec<T> a, vec<T> b) {
    if constexpr (P == FixedProduct::high)
        return mul_high(a, b);
    else if constexpr (P == FixedProduct::rounded)
        return mul_rounded(a, b);
    else
        return mul_mod<T>(a, b);
}

template <class T, Rounding R, Overflow O, FixedProduct P, int ROWS, int NV>
void tile(const T* a, int64_t a_row, const T* panel, int64_t K, T* out, const StepRules<T>& steps) {
    constexpr int W = lanes<T>;
    const Target<T> t = steps.acc;
    vec<T> acc[ROWS][NV];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[i][v] = load(out + (i * NV + v) * W);
    for (int64_t k = 0; k < K; ++k) {
        vec<T> line[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) line[v] = load(panel + (k * NV + v) * W);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
            const vec<T> x = splat(a[i * a_row + k]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[i][v] = assign<T, R, O>(acc[i][v], times<T, P>(x, line[v]), t);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) store(out + (i * NV + v) * W, acc[i][v]);
}

// Tile sizes that leave registers for a line of the panel and the operands of the assignment
template <class T, Rounding R, Overflow O, FixedProduct P> Tiles<T> tiles() {
    constexpr bool simple = !looks_at_sum(R);
    constexpr int NV = simple && kVectorBytes == 64 ? 4 : 2;
    constexpr int ROWS = simple && kVectorBytes == 64 ? 6 : 4;
    return {ROWS, NV, tile<T, R, O, P, ROWS, NV>, tile<T, R, O, P, ROWS, 1>};
}

// If only the product is rounded, wrapping once at the end is exact.
template <class T, FixedProduct P, Rounding R> Tiles<T> by_overflow(Overflow o) {
    constexpr Overflow wraps = looks_at_sum(R) ? Overflow::wrap : kNoOverflow;
    return with_constant<Overflow::saturate, Overflow::zero, wraps>(o,
                                                                    []<Overflow O>() { return tiles<T, R, O, P>(); });
}

template <class T> Tiles<T> by_rounding(Rounding r, Overflow o) {
    return with_rounding(r, [&]<Rounding R>() { return by_overflow<T, FixedProduct::low, R>(o); });
}

template <int ROWS, int NV>
void pair_tile(const int32_t* a, int64_t a_row, const int32_t* panel, int64_t K, int32_t* out,
               const StepRules<int32_t>&) {
    constexpr int W = lanes<int32_t>;
    vec32 acc[ROWS][NV];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[i][v] = load(out + (i * NV + v) * W);
    for (int64_t k = 0; k < K; ++k) {
        vec32 line[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) line[v] = load(panel + (k * NV + v) * W);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
            const vec32 x = splat(a[i * a_row + k]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[i][v] = add_mod<int32_t>(acc[i][v], mul_pairs(x, line[v]));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) store(out + (i * NV + v) * W, acc[i][v]);
}

} // namespace

Tiles<int16_t> fused16(Rounding r, Overflow o, FixedProduct product) {
    if (product == FixedProduct::high) return by_overflow<int16_t, FixedProduct::high, kNoRounding>(o);
    if (product == FixedProduct::rounded) return by_overflow<int16_t, FixedProduct::rounded, kNoRounding>(o);
    return by_rounding<int16_t>(r, o);
}

Tiles<int32_t> fused32(Rounding r, Overflow o) { return by_rounding<int32_t>(r, o); }

Tiles<int32_t> pair_tiles() {
    constexpr int ROWS = kVectorBytes == 64 ? 6 : 4, NV = kVectorBytes == 64 ? 4 : 2;
    return {ROWS, NV, pair_tile<ROWS, NV>, pair_tile<ROWS, 1>};
}

} // namespace fastiter::quant::FASTITER_LEVEL
