// A plan as it comes from Python: python/fastiter/decode/_program.py lists the fields of each kind of operation.
#pragma once
#include "decode/cpu/operations.hpp"
#include <cstdio>
#include <string>
#include <vector>

namespace fastiter::decode {

// Numbers in messages
inline std::string text(int n) { return std::to_string(n); }
inline std::string text(int64_t n) { return std::to_string(n); }
inline std::string text(double x) {
    char s[32];
    std::snprintf(s, sizeof s, "%g", x);
    return s;
}

struct BufferSpec {
    std::string name;
    int64_t size = 0;
};

struct StateSpec {
    std::string name;
    bool grows = false; // keys or values
    std::vector<int64_t> shape;
};

struct Slot {
    int64_t buffer = -1, start = 0, size = 0; // buffer -1: none
};

struct Description {
    Kind kind = Kind::embed;
    std::vector<Slot> slots;
    std::vector<int64_t> integers;
    std::vector<double> reals;
    std::vector<std::vector<double>> vectors; // empty: none
    std::vector<Packed> matrices;
    std::vector<int64_t> states;
};

// Index of the slot "out", which is the last one except for the gate of a norm
inline int place_of_out(Kind kind) {
    constexpr int places[kKinds] = {0, 1, 1, 1, 2, 1, 1, 2, 4, 4, 5, 1, 3, 1, 2, 3, 5};
    return places[int(kind)];
}

struct PlanSpec {
    int64_t rows = 1;
    std::vector<BufferSpec> buffers;
    std::vector<StateSpec> states;
    std::vector<Description> operations;
};

// The slot "out" of an operation; null if there is none inside a buffer, which is refused when the operation is read
inline const Slot* out_of(const Description& o, const PlanSpec& plan) {
    const size_t place = size_t(place_of_out(o.kind));
    if (o.slots.size() <= place) return nullptr;
    const Slot& out = o.slots[place];
    if (out.buffer < 0 || out.buffer >= int64_t(plan.buffers.size()) || out.start < 0) return nullptr;
    return out.start + out.size <= plan.buffers[size_t(out.buffer)].size ? &out : nullptr;
}

inline bool overlap(const Slot& a, const Slot& b) {
    return a.buffer == b.buffer && a.start < b.start + b.size && b.start < a.start + a.size;
}
inline bool is_inside(const Slot& a, const Slot& b) {
    return a.buffer == b.buffer && a.start >= b.start && a.start + a.size <= b.start + b.size;
}

} // namespace fastiter::decode
