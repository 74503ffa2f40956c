// Arrays over time, as passed to the recurrent kernels. Strides count elements.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastiter {

// Values with indices (row, time, gate, head, unit), contiguous in units. data == nullptr: not requested.
template <class T> struct Steps {
    T* data = nullptr;
    int64_t row = 0, time = 0, gate = 0, head = 0;
};

constexpr int kMaxStates = 4; // states per cell: h, c, n, m

} // namespace fastiter
