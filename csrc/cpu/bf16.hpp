// bfloat16 as it lies in memory: the upper half of a float. Nothing is computed in it.
#pragma once
#include <cstdint>

namespace fastiter {

struct bf16 {
    uint16_t bits;
};

} // namespace fastiter
