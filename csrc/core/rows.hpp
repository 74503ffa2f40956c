// The order in which kernels process the rows of a ragged batch, and the division of rows of different weights.
#pragma once
#include <cstdint>
#include <vector>

namespace fastiter {

// Row indices by decreasing length; empty if there are no lengths
std::vector<int64_t> by_length(const int64_t* lengths, int64_t count);

// The first index of part `part` of `parts` parts of [first, last) of nearly equal weight. before(i), the weight of all
// indices before i plus any constant, increases strictly.
template <class F> int64_t first_of_part(int64_t first, int64_t last, int part, int parts, F before) {
    if (part == parts) return last;
    const int64_t target = before(first) + (before(last) - before(first)) * part / parts;
    int64_t low = first, high = last;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (before(middle) < target)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

} // namespace fastiter
