#include "decode/layout.hpp"
#include <algorithm>
#include <map>
#include <tuple>

namespace fastiter::decode {
namespace {

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Whether an operation takes less time than the threads would wait for the one that computes it
bool is_small(const Description& o) {
    if (o.kind == Kind::route) return true;
    return o.kind == Kind::norm && o.slots.size() > 1 && !o.integers.empty() && o.integers[0] == o.slots[1].size;
}

bool adds(const Description& o) {
    return (o.kind == Kind::linear || o.kind == Kind::experts) && o.integers.size() > 1 && o.integers[1] != 0;
}

// The slots of later operations that read the output of operation `index`, until it is written again. Empty if one of
// them reads other numbers too, or if a later operation writes only some of the numbers.
std::vector<Slot*> readers_of(PlanSpec& plan, size_t index, const Slot& out) {
    std::vector<Slot*> readers;
    for (const Slot& s : plan.operations[index].slots)
        if (overlap(s, out) && !is_inside(out, s)) return {};
    for (size_t i = index + 1; i < plan.operations.size(); ++i) {
        Description& o = plan.operations[i];
        const Slot* const written = out_of(o, plan);
        for (Slot& s : o.slots) {
            if (&s == written || !overlap(s, out)) continue;
            if (!is_inside(s, out)) return {};
            readers.push_back(&s);
        }
        if (!written || !overlap(*written, out)) continue;
        if (adds(o) || !is_inside(out, *written)) return {};
        break;
    }
    return readers;
}

} // namespace

PlanSpec with_own_outputs(PlanSpec plan) {
    std::map<std::tuple<int64_t, int64_t, int64_t>, int64_t> own; // buffers, by the slots whose place they take
    for (size_t i = 0; i < plan.operations.size(); ++i) {
        Description& o = plan.operations[i];
        if (!is_small(o) || !out_of(o, plan)) continue;
        const Slot out = *out_of(o, plan);
        const std::vector<Slot*> readers = readers_of(plan, i, out);
        if (readers.empty()) continue;
        const auto [at, is_new] = own.try_emplace({out.buffer, out.start, out.size}, int64_t(plan.buffers.size()));
        if (is_new) plan.buffers.push_back({plan.buffers[size_t(out.buffer)].name + ", of every thread", out.size});
        for (Slot* s : readers) *s = {at->second, s->start - out.start, s->size};
        o.slots[size_t(place_of_out(o.kind))] = {at->second, 0, out.size};
    }
    return plan;
}

Layout::Layout(const PlanSpec& plan) : places_(plan.buffers.size()) {
    std::vector<bool> is_written(places_.size(), false), by_large(places_.size(), false);
    for (const Description& o : plan.operations) {
        const Slot* const out = out_of(o, plan);
        if (!out) continue;
        is_written[size_t(out->buffer)] = true;
        if (!is_small(o)) by_large[size_t(out->buffer)] = true;
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
