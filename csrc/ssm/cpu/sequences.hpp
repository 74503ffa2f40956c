// The bounds and resets of sequences, and the division of a workspace: shared by the kernels along time.
#pragma once
#include "core/cpu/simd.hpp"
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

// A sequence: steps [start, start + steps) of a row; the kernel also writes 0 to the steps up to `padded`.
struct Sequence {
    int64_t index, row, start, steps, padded;
};

FASTITER_INLINE Sequence sequence(const Sequences& s, int64_t i) {
    if (s.starts) return {i, 0, s.starts[i], s.starts[i + 1] - s.starts[i], s.starts[i + 1] - s.starts[i]};
    return {i, i, 0, s.lengths ? s.lengths[i] : s.T, s.T};
}

// Number of tiles of `steps` steps in the sequences before sequence i, each of which has saved states
FASTITER_INLINE int64_t tiles_before(const Sequences& s, int64_t i, int64_t steps) {
    if (s.starts) return s.starts[i] / steps + i;
    return i * ceil_div(s.T, steps);
}

// Divides memory into aligned arrays; without memory it only counts.
class Arena {
public:
    explicit Arena(void* memory) : at_(static_cast<char*>(memory)) {}
    template <class T> T* take(int64_t count) {
        T* result = at_ ? reinterpret_cast<T*>(at_ + bytes_) : nullptr;
        bytes_ += size_t(round_up(count * int64_t(sizeof(T)), 64));
        return result;
    }
    size_t bytes() const { return bytes_; }

private:
    char* at_;
    size_t bytes_ = 0;
};

// Flags of the steps of a tile, or nullptr if none is set
FASTITER_INLINE const uint8_t* reset_of(const Sequences& s, const Sequence& q, int64_t time, int64_t steps,
                                        uint8_t* flags) {
    if (!s.reset) return nullptr;
    uint8_t any = 0;
    for (int64_t t = 0; t < steps; ++t)
        any |= flags[t] = s.reset[q.row * s.reset_row + (q.start + time + t) * s.reset_time];
    return any ? flags : nullptr;
}

} // namespace fastiter::ssm::FASTITER_LEVEL
