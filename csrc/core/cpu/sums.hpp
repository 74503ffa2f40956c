// Sums over the lanes of several vectors, in a fixed order.
#pragma once
#include "core/cpu/simd.hpp"

namespace fastiter::FASTITER_LEVEL {

namespace detail {
// Lane i: with `swapped`, number i ^ width, else number i; of b if i & width, else of a
template <int width, bool swapped, class V, size_t... I>
FASTITER_INLINE V of_both(V a, V b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, int((swapped ? I ^ width : I) + (I & width ? sizeof...(I) : 0))...);
}
} // namespace detail

// The sums of the lanes of each of W vectors, where W is the number of lanes. A pass adds numbers that are `width`
// lanes apart and merges pairs of vectors, half of whose lanes are then in use.
template <class T, int width = lanes<T> / 2> FASTITER_INLINE vec<T> sums_of(vec<T>* v) {
    constexpr auto all = std::make_index_sequence<lanes<T>>();
#pragma GCC unroll 8
    for (int i = 0; i < width; ++i)
        v[i] = detail::of_both<width, false>(v[i], v[i + width], all) +
               detail::of_both<width, true>(v[i], v[i + width], all);
    if constexpr (width > 1) sums_of<T, width / 2>(v);
    return v[0];
}

} // namespace fastiter::FASTITER_LEVEL
