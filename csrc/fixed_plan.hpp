// How a fixed-point product is computed: the fastest path that is exact. docs/fixed.md derives the conditions.
#pragma once
#include "cpu/fixed_kernels.hpp"

namespace fastiter {

// Rounding sees nothing but the product, or there is none: then a sum that cannot leave the format may wrap at the end.
bool rounds_products(const FixedTarget& acc);

// `only`: the path that must be taken (`wide` where it is not exact), or `choose`. is_safe: no sum leaves the format.
FixedPlan choose_plan(const FixedMatmul& g, FixedPath only, bool is_safe);

// Whether no sum of the products can leave the accumulator's format: for every line of a in turn, by the sum of its
// magnitudes and the largest magnitude in b.
enum class Safety { every_row, some_rows, no_row };
Safety safe_rows(const FixedMatmul& g, bool* is_safe);

// What an assignment of single codes needs to be done in lanes of 64 bits
bool converts_narrow(const FixedCodes& in, const FixedTarget& target);

} // namespace fastiter
