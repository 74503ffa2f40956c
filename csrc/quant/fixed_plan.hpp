// Chooses the algorithm of a fixed-point product: the fastest exact path (conditions: docs/quant/fixed_theory.md).
#pragma once
#include "quant/cpu/matmul/fixed_kernels.hpp"

namespace fastiter::quant {

// Whether rounding depends on the product only, or there is none: a sum that cannot leave the format may then wrap at
// the end.
bool rounds_products(const FixedTarget& acc);

// `only`: the required path (`wide` if it is not exact), or `choose`. is_safe: no sum leaves the format.
FixedPlan choose_plan(const FixedMatmul& g, FixedPath only, bool is_safe);

// Whether no sum of products can leave the accumulator's format: per row of a, from its sum of magnitudes and the
// largest magnitude in b.
enum class Safety { every_row, some_rows, no_row };
Safety safe_rows(const FixedMatmul& g, bool* is_safe);

// Whether assignments of single codes are exact in 64-bit lanes
bool converts_narrow(const FixedCodes& in, const FixedTarget& target);

} // namespace fastiter::quant
