// A copy by a team of threads.
#pragma once
#include <cstddef>

namespace fastiter {

void run_copy(const void* from, size_t bytes, void* to);

} // namespace fastiter
