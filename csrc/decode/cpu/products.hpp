// Products of the operations with packed matrices.
#pragma once
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {

// y[row y_row + i - 16 tiles.begin] = sum over k of W(i, k) x[row x_row + k] for the outputs i of a range of tiles
template <class T>
FASTITER_INLINE void product(const Packed& w, Range tiles, int rows, const T* x, int64_t x_row, T* y, int64_t y_row) {
    decode::kernels_of<T>(packed, w).product(w, tiles, rows, x, x_row, y, y_row);
}

} // namespace fastiter::decode::FASTITER_LEVEL
