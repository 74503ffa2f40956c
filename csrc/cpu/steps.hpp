// Arrays of steps, as the kernels along time take them. Strides count elements.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastiter {

// Values with indices (row, time, gate, head, unit); units lie next to each other. data == nullptr: not wanted.
template <class T> struct Steps {
    T* data = nullptr;
    int64_t row = 0, time = 0, gate = 0, head = 0;
};

constexpr int kMaxStates = 4; // of a cell: h, c, n, m

} // namespace fastiter
