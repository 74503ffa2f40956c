// The exact minimiser in a block whose graph is a forest: elimination from the leaves to the roots and back.
#pragma once
#include "bcd/cpu/kernels.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {

// If a node's parent comes next, its contribution is passed on in a register: through memory, each node of a path would
// wait for the store before it.
inline void forest(const ForestState& p) {
    if (!p.parent) {
        for (int64_t k = 0; k < p.size; ++k) {
            double r = p.b[p.node[k]];
            for (int64_t e = p.start[k]; e < p.start[k + 1]; ++e) r -= p.value[e] * p.x[p.column[e]];
            p.x[p.node[k]] = p.inverse[k] * r;
        }
        return;
    }
    double before = 0, share = 0; // the previous node, whose parent may be this one
    bool is_next = false;
    for (int64_t k = 0; k < p.size; ++k) {
        double r = p.b[p.node[k]] + p.work[k];
        for (int64_t e = p.start[k]; e < p.start[k + 1]; ++e) r -= p.value[e] * p.x[p.column[e]];
        if (is_next) r -= share * before;
        p.work[k] = r;
        const int32_t parent = p.parent[k];
        is_next = parent == k + 1;
        before = r;
        share = p.ratio[k];
        if (parent >= 0 && !is_next) p.work[parent] -= share * r;
    }
    double above = 0; // x of the next node
    for (int64_t k = p.size; k-- > 0;) {
        const int32_t parent = p.parent[k];
        double x = p.inverse[k] * p.work[k];
        if (parent == k + 1)
            x -= p.ratio[k] * above;
        else if (parent >= 0)
            x -= p.ratio[k] * p.x[p.node[parent]];
        p.x[p.node[k]] = above = x;
        p.work[k] = 0;
    }
}

} // namespace fastiter::bcd::FASTITER_LEVEL
