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

template <class T, RoundingCase R, OverflowCase O, FixedProduct P, int ROWS, int NV>
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
template <class T, RoundingCase R, OverflowCase O, FixedProduct P> Tiles<T> tiles() {
    constexpr bool simple = R == RoundingCase::none || R == RoundingCase::product;
    constexpr int NV = simple && kVectorBytes == 64 ? 4 : 2;
    constexpr int ROWS = simple && kVectorBytes == 64 ? 6 : 4;
    return {ROWS, NV, tile<T, R, O, P, ROWS, NV>, tile<T, R, O, P, ROWS, 1>};
}

template <class T, FixedProduct P, RoundingCase R> Tiles<T> by_overflow(OverflowCase o) {
    constexpr bool looks = R != RoundingCase::none && R != RoundingCase::product;
    switch (o) {
    case OverflowCase::saturate:
        return tiles<T, R, OverflowCase::saturate, P>();
    case OverflowCase::zero:
        return tiles<T, R, OverflowCase::zero, P>();
    default: // if only the product is rounded, wrapping once at the end is exact
        if constexpr (looks)
            return tiles<T, R, OverflowCase::wrap, P>();
        else
            return tiles<T, R, OverflowCase::nothing, P>();
    }
}

template <class T> Tiles<T> by_rounding(RoundingCase r, OverflowCase o) {
    constexpr FixedProduct low = FixedProduct::low;
    switch (r) {
    case RoundingCase::none:
        return by_overflow<T, low, RoundingCase::none>(o);
    case RoundingCase::product:
        return by_overflow<T, low, RoundingCase::product>(o);
    case RoundingCase::zero:
        return by_overflow<T, low, RoundingCase::zero>(o);
    case RoundingCase::half_zero:
        return by_overflow<T, low, RoundingCase::half_zero>(o);
    case RoundingCase::half_away:
        return by_overflow<T, low, RoundingCase::half_away>(o);
    default:
        return by_overflow<T, low, RoundingCase::even>(o);
    }
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

Tiles<int16_t> fused16(RoundingCase r, OverflowCase o, FixedProduct product) {
    if (product == FixedProduct::high) return by_overflow<int16_t, FixedProduct::high, RoundingCase::none>(o);
    if (product == FixedProduct::rounded) return by_overflow<int16_t, FixedProduct::rounded, RoundingCase::none>(o);
    return by_rounding<int16_t>(r, o);
}

Tiles<int32_t> fused32(RoundingCase r, OverflowCase o) { return by_rounding<int32_t>(r, o); }

Tiles<int32_t> pair_tiles() {
    constexpr int ROWS = kVectorBytes == 64 ? 6 : 4, NV = kVectorBytes == 64 ? 4 : 2;
    return {ROWS, NV, pair_tile<ROWS, NV>, pair_tile<ROWS, 1>};
}

} // namespace fastiter::quant::FASTITER_LEVEL
