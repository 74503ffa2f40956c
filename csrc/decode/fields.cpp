#include "decode/fields.hpp"
#include <algorithm>
#include <stdexcept>

namespace fastiter::decode {
namespace {

constexpr const char* kNames[kKinds] = {"Embed",     "Linear", "Norm",      "Conv", "Gate",  "Activate",
                                        "Decay",     "Add",    "Selective", "SSD",  "Delta", "Rope",
                                        "Attention", "Route",  "Experts",   "Lru",  "MLstm"};

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string s = "(";
    for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + text(shape[i]);
    return s + (shape.size() == 1 ? ",)" : ")");
}

} // namespace

template <class T>
Fields<T>::Fields(const PlanSpec& plan, const Layout& layout, size_t index, Operations<T>& to, std::vector<bool>& used,
                  const Expected& expected)
    : plan_(plan), layout_(layout), index_(index), o_(plan.operations[index]), to_(to), used_(used) {
    auto check = [&](const char* what, size_t got, int count) {
        require(count < 0 || int64_t(got) == count,
                std::string(what) + " must number " + text(count) + ", got " + text(int64_t(got)));
    };
    check("slots", o_.slots.size(), expected.slots);
    check("integers", o_.integers.size(), expected.integers);
    check("reals", o_.reals.size(), expected.reals);
    check("vectors", o_.vectors.size(), expected.vectors);
    check("matrices", o_.matrices.size(), expected.matrices);
    check("states", o_.states.size(), expected.states);
    const Slot& out = slot(place_of_out(o_.kind));
    check_slot(out, "out");
    everywhere_ = layout_.is_own(out.buffer);
}

template <class T> void Fields<T>::refuse(const std::string& what) const {
    throw std::invalid_argument("Program: operation " + text(int64_t(index_)) + " (" + kNames[int(o_.kind)] +
                                "): " + what);
}

template <class T> void Fields<T>::check_slot(const Slot& s, const char* name) const {
    require(s.buffer >= 0 && s.buffer < int64_t(plan_.buffers.size()), std::string(name) + " must be in one of the " +
                                                                           text(int64_t(plan_.buffers.size())) +
                                                                           " buffers, got buffer " + text(s.buffer));
    const BufferSpec& buffer = plan_.buffers[size_t(s.buffer)];
    require(s.start >= 0 && s.size >= 1 && s.start <= buffer.size - s.size,
            std::string(name) + " must be inside buffer '" + buffer.name + "' of " + text(buffer.size) +
                " numbers, got " + text(s.size) + " numbers from " + text(s.start) + " on");
}

template <class T> void Fields<T>::record(const Slot& s, bool writes, Division division) {
    if (layout_.is_own(s.buffer)) return;
    accesses_.push_back({s.buffer, s.start, s.start + s.size, writes, everywhere_ ? kWhole : division});
}

template <class T> Part Fields<T>::in(int i, const char* name, int64_t size, Division division) {
    check_slot(slot(i), name);
    require(slot(i).size == size,
            std::string(name) + " must have " + text(size) + " numbers, got " + text(slot(i).size));
    record(slot(i), false, division);
    return layout_.part(slot(i));
}

template <class T> Part Fields<T>::checked_out(int64_t size, bool in_place) const {
    const Slot& s = slot(place_of_out(o_.kind));
    require(s.size == size, "out must have " + text(size) + " numbers, got " + text(s.size));
    for (const Slot& x : o_.slots) {
        const bool is_same = x.start == s.start && x.size == s.size;
        const bool overlaps = x.buffer == s.buffer && x.start < s.start + s.size && s.start < x.start + x.size;
        require(&x == &s || !overlaps || (in_place && is_same),
                "out must " + std::string(in_place ? "be an input or " : "") + "share no numbers with an input, got " +
                    text(s.size) + " numbers from " + text(s.start) + " on, and an input's " + text(x.size) + " from " +
                    text(x.start) + " on");
    }
    return layout_.part(s);
}

template <class T> Part Fields<T>::out(int64_t size, Division division, bool in_place) {
    record(slot(place_of_out(o_.kind)), true, division);
    return checked_out(size, in_place);
}

template <class T> Part Fields<T>::out(int64_t size, const std::vector<int64_t>& cuts) {
    const Slot& s = slot(place_of_out(o_.kind));
    for (size_t i = 0; i <= cuts.size(); ++i) {
        const int64_t first = i ? cuts[i - 1] : 0, end = i < cuts.size() ? cuts[i] : size;
        const Slot piece{s.buffer, s.start + first, end - first};
        record(piece, true, tiles_of(piece));
    }
    return checked_out(size, false);
}

template <class T> void Fields<T>::use_hidden(int64_t numbers) {
    to_.hidden = std::max(to_.hidden, numbers);
    accesses_.push_back({int64_t(plan_.buffers.size()), 0, 1, true, kUnknown});
}

template <class T> int64_t Fields<T>::integer(int i, const char* name, int64_t least, int64_t most) const {
    const int64_t x = o_.integers[size_t(i)];
    require(x >= least && x <= most, std::string(name) + " must be at least " + text(least) +
                                         (most < INT64_MAX ? " and at most " + text(most) : "") + ", got " + text(x));
    return x;
}

template <class T> Activation Fields<T>::activation(int i, bool with_limits) const {
    const int64_t most = int64_t(with_limits ? Activation::clip : Activation::exp);
    return Activation(integer(i, "activation", 0, most));
}

template <class T> const T* Fields<T>::vector(int i, const char* name, int64_t size, bool may_lack) {
    if (may_lack && !has_vector(i)) return nullptr;
    require(length(i) == size, std::string(name) + " must have " + text(size) + " numbers, got " + text(length(i)));
    const std::vector<double>& from = o_.vectors[size_t(i)];
    to_.vectors.emplace_back(from.begin(), from.end());
    return to_.vectors.back().data();
}

template <class T> Packed Fields<T>::matrix(int i, const char* name, int64_t rows, int64_t columns) {
    const Packed& w = o_.matrices[size_t(i)];
    require(w.N == rows && w.K == columns,
            std::string(name) + " must have shape " + shape_text({rows, columns}) + ", got " + shape_text({w.N, w.K}));
    require((w.format == Weight::f64) == (sizeof(T) == 8),
            std::string(name) + " must be " + (sizeof(T) == 8 ? "of float64" : "of another format than float64") +
                " in a program of " + (sizeof(T) == 8 ? "float64" : "float32"));
    if (to_.counted.insert(w.codes).second)
        to_.bytes += (w.N + kTile - 1) / kTile * (w.tile_bytes + w.tile_scale_bytes);
    return w;
}

template <class T> const std::vector<int64_t>& Fields<T>::shape(int i) const {
    const int64_t index = o_.states[size_t(i)];
    require(index >= 0 && index < int64_t(plan_.states.size()), "states must be among the " +
                                                                    text(int64_t(plan_.states.size())) +
                                                                    " of the plan, got state " + text(index));
    return plan_.states[size_t(index)].shape;
}

template <class T>
StateRef Fields<T>::state(int i, const char* name, std::initializer_list<int64_t> expected, bool grows) {
    const std::vector<int64_t>& got = shape(i);
    const int64_t index = o_.states[size_t(i)];
    const StateSpec& s = plan_.states[size_t(index)];
    require(got == std::vector<int64_t>(expected), std::string(name) + " must have shape " +
                                                       shape_text(std::vector<int64_t>(expected)) + ", got " +
                                                       shape_text(got));
    require(s.grows == grows, std::string(name) + " must be " + (grows ? "keys or values" : "a state of fixed size") +
                                  ", got state '" + s.name + "'");
    require(!used_[size_t(index)],
            std::string(name) + " must belong to one operation, got state '" + s.name + "' again");
    used_[size_t(index)] = true;
    int64_t size = 1;
    for (int64_t n : got) size *= n;
    return {int32_t(index), size};
}

template class Fields<float>;
template class Fields<double>;

} // namespace fastiter::decode
