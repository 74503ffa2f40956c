// Where the buffers of a program are, and how its threads divide them.
#pragma once
#include "decode/description.hpp"
#include <vector>

namespace fastiter::decode {

// The plan with buffers of their own for the outputs of small operations in buffers that others write too, as far as the
// next write: every thread can then compute them for itself.
PlanSpec with_own_outputs(PlanSpec plan);

class Layout {
public:
    explicit Layout(const PlanSpec& plan);

    Part part(const Slot& slot) const;
    // Every thread computes the whole buffer for itself: all operations that write it are small.
    bool is_own(int64_t buffer) const { return places_[size_t(buffer)].is_own; }
    int64_t shared() const { return shared_; } // numbers of the buffers that all threads share
    int64_t own() const { return own_; }       // and of a thread's own buffers

private:
    struct Place {
        int64_t offset = 0, row = 0;
        bool is_own = false;
    };
    std::vector<Place> places_;
    int64_t shared_ = 0, own_ = 0;
};

// How the threads divide numbers of a buffer: units of `width` numbers from `start` on, in order. With width 0 every
// thread uses all of them, and with width -1 anything is possible.
struct Division {
    int64_t start = 0, width = 0, count = 0;
    bool operator==(const Division&) const = default;
};

constexpr Division kWhole{}, kUnknown{0, -1, 0};

inline Division tiles_of(const Slot& slot) { return {slot.start, kTile, (slot.size + kTile - 1) / kTile}; }
inline Division units_of(const Slot& slot, int64_t count) { return {slot.start, slot.size / count, count}; }

struct Access {
    int64_t buffer = -1, begin = 0, end = 0;
    bool writes = false;
    Division division;
};

// Marks the items before which the threads have to wait for each other, as they use what other threads may have written
// since the last wait, or write what others may still use. accesses: of each item, to the buffers that threads share
void schedule(const std::vector<std::vector<Access>>& accesses, std::vector<Item>& items);

} // namespace fastiter::decode
