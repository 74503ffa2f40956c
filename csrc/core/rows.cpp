#include "core/rows.hpp"
#include <algorithm>
#include <numeric>

namespace fastiter {

std::vector<int64_t> by_length(const int64_t* lengths, int64_t count) {
    std::vector<int64_t> order(size_t(lengths ? count : 0));
    std::iota(order.begin(), order.end(), int64_t(0));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
    return order;
}

} // namespace fastiter
