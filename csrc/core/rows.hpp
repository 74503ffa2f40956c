// The order in which kernels process the rows of a ragged batch.
#pragma once
#include <cstdint>
#include <vector>

namespace fastiter {

// Row indices by decreasing length; empty if there are no lengths
std::vector<int64_t> by_length(const int64_t* lengths, int64_t count);

} // namespace fastiter
