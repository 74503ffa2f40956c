// Reads the fields of an operation's description, and refuses those that the kernel could not run.
#pragma once
#include "decode/layout.hpp"
#include <deque>
#include <memory>
#include <set>
#include <string>

namespace fastiter::decode {

// Cosines and sines of the positions' products with these frequencies, times `scaling`; layers with the same share them.
struct RotaryTable {
    std::vector<double> frequencies;
    double scaling = 1;
    int64_t offset = 0; // in numbers per row
};

// Operations for the kernel, and all that they point to
template <class T> struct Operations {
    std::vector<Item> items;
    std::vector<RotaryTable> tables;
    int64_t angles = 0;     // numbers per row of all tables
    int64_t hidden = 0;     // numbers per row of the largest Experts
    int64_t vocabulary = 0; // rows of the embedding's table; 0: there is none
    int64_t bytes = 0;      // all weights, each once
    bool attends = false;

    std::set<const uint8_t*> counted; // codes whose bytes are counted
    std::deque<std::vector<T>> vectors;
    std::deque<std::vector<Packed>> matrices;
    std::vector<std::shared_ptr<const void>> kept;
};

template <class T> Operations<T> read_operations(const PlanSpec& plan, const Layout& layout);

// The length that a list of fields should have, for messages
struct Expected {
    int slots = 0, integers = 0, reals = 0, vectors = 0, matrices = 0, states = 0; // matrices -1: any number
};

template <class T> class Fields {
public:
    Fields(const PlanSpec& plan, const Layout& layout, size_t index, Operations<T>& to, std::vector<bool>& used_states,
           const Expected& expected);

    const Description& operator*() const { return o_; }
    const Description* operator->() const { return &o_; }
    [[noreturn]] void refuse(const std::string& what) const;
    void require(bool good, const std::string& what) const {
        if (!good) refuse(what);
    }

    bool has_slot(int i) const { return o_.slots[size_t(i)].buffer >= 0; }
    const Slot& slot(int i) const { return o_.slots[size_t(i)]; }
    int64_t size(int i) const { return slot(i).size; }
    // The slot i as an input of `size` numbers, which the threads divide
    Part in(int i, const char* name, int64_t size, Division division);
    // The slot `out`, after all inputs. It shares no number with an input, but may be one of them if `in_place`.
    Part out(int64_t size, Division division, bool in_place = false);
    // The same for outputs of which those between two cuts are divided in tiles
    Part out(int64_t size, const std::vector<int64_t>& cuts);

    int64_t integer(int i, const char* name, int64_t least, int64_t most = INT64_MAX) const;
    bool flag(int i) const { return o_.integers[size_t(i)] != 0; }
    Activation activation(int i, bool with_limits = false) const; // with_limits: also softcap and clip
    T real(int i) const { return T(o_.reals[size_t(i)]); }
    bool has_vector(int i) const { return !o_.vectors[size_t(i)].empty(); }
    int64_t length(int i) const { return int64_t(o_.vectors[size_t(i)].size()); }
    const T* vector(int i, const char* name, int64_t size, bool may_lack = false);
    Packed matrix(int i, const char* name, int64_t rows, int64_t columns);
    StateRef state(int i, const char* name, std::initializer_list<int64_t> shape, bool grows = false);
    const std::vector<int64_t>& shape(int i) const;

    // Appends the operation to the program.
    template <class O> void finish(const O& operation) {
        auto kept = std::make_shared<const O>(operation);
        to_.items.push_back({O::kind, false, everywhere_, kept.get()});
        to_.kept.push_back(std::move(kept));
    }
    void use_hidden(int64_t numbers_per_row); // memory that all operations Experts share
    const std::vector<Access>& accesses() const { return accesses_; }
    Operations<T>& to() { return to_; }
    const PlanSpec& plan() const { return plan_; }
    size_t index() const { return index_; }

private:
    void check_slot(const Slot& slot, const char* name) const;
    void record(const Slot& slot, bool writes, Division division);
    Part checked_out(int64_t size, bool in_place) const;

    const PlanSpec& plan_;
    const Layout& layout_;
    size_t index_;
    const Description& o_;
    Operations<T>& to_;
    std::vector<bool>& used_;
    std::vector<Access> accesses_;
    bool everywhere_ = false;
};

} // namespace fastiter::decode
