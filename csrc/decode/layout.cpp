#include "decode/layout.hpp"
#include <algorithm>

namespace fastiter::decode {
namespace {

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Whether an operation takes less time than the threads would wait for the one that computes it
bool is_small(const Description& o) {
    if (o.kind == Kind::route) return true;
    return o.kind == Kind::norm && o.slots.size() > 1 && !o.integers.empty() && o.integers[0] == o.slots[1].size;
}

} // namespace

Layout::Layout(const PlanSpec& plan) : places_(plan.buffers.size()) {
    std::vector<bool> is_written(places_.size(), false), by_large(places_.size(), false);
    for (const Description& o : plan.operations) {
        if (o.slots.size() <= size_t(place_of_out(o.kind))) continue; // refused when the operation is read
        const int64_t buffer = o.slots[size_t(place_of_out(o.kind))].buffer;
        if (buffer < 0 || buffer >= int64_t(places_.size())) continue; // so is this
        is_written[size_t(buffer)] = true;
        if (!is_small(o)) by_large[size_t(buffer)] = true;
    }
    for (size_t i = 0; i < places_.size(); ++i) {
        Place& p = places_[i];
        p.row = round_up(plan.buffers[i].size, kLine);
        p.is_own = is_written[i] && !by_large[i] && plan.buffers[i].name != "logits";
        int64_t& end = p.is_own ? own_ : shared_;
        p.offset = end;
        end += plan.rows * p.row;
    }
}

Part Layout::part(const Slot& slot) const {
    const Place& p = places_[size_t(slot.buffer)];
    return {p.offset + slot.start, slot.size, p.row, p.is_own};
}

void schedule(const std::vector<std::vector<Access>>& accesses, std::vector<Item>& items) {
    std::vector<Access> since; // the last wait
    for (size_t i = 0; i < items.size(); ++i) {
        auto conflicts = [&](const Access& a) {
            return std::any_of(since.begin(), since.end(), [&](const Access& b) {
                if (a.buffer != b.buffer || a.end <= b.begin || b.end <= a.begin || !(a.writes || b.writes))
                    return false;
                return a.division.width < 0 || !(a.division == b.division) || a.division.width == 0;
            });
        };
        items[i].waits = std::any_of(accesses[i].begin(), accesses[i].end(), conflicts);
        if (items[i].waits) since.clear();
        since.insert(since.end(), accesses[i].begin(), accesses[i].end());
    }
}

} // namespace fastiter::decode
