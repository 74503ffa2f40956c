// Randomized Kaczmarz steps; on dense rows the change of x by one row and its product with the next one are one pass.
#pragma once
#include "bcd/cpu/columns.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {

template <class T> void kaczmarz(const Kaczmarz<T>& arguments) {
    const Columns<T>& a = arguments.rows;
    const KaczmarzState& p = arguments.to;
    if (a.start) {
        for (int64_t k = 0; k < p.count; ++k) {
            const int32_t i = p.order[k];
            column_add(a, i, (p.b[i] - column_dot(a, i, p.x)) * p.inverse[i], p.x);
        }
        return;
    }
    const auto row = [&](int64_t k) { return a.value + p.order[k < p.count ? k : p.count - 1] * a.n; };
    if (p.count <= 0) return;
    double product = move_and_dot<T, false>(row(0), 0, p.x, row(0), row(1), a.n);
    for (int64_t k = 0; k < p.count; ++k) {
        const int32_t i = p.order[k];
        product = move_and_dot<T, true>(row(k), (p.b[i] - product) * p.inverse[i], p.x, row(k + 1), row(k + 2), a.n);
    }
}

} // namespace fastiter::bcd::FASTITER_LEVEL
