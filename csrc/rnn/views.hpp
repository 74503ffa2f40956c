// Shared by the recurrences' bindings on tensors: cells, tensors of states, and new tensors.
#pragma once
#include "core/arrays.hpp"
#include "core/copy.hpp"
#include "rnn/run.hpp"
#include <algorithm>
#include <vector>

namespace fastiter::rnn {

// Bits of the type of the computation, in which the states other than h are stored, for arrays of `bits`
inline int computed_bits(int bits) { return bits == 16 ? 32 : bits; }
inline int bits_of_state(int state, int bits) { return state == 0 ? bits : computed_bits(bits); }

template <class P> void point(P*& out, const Array& x) { out = x.data<P>(); }
template <class P> void point(Steps<P>& out, const Array& x) {
    const bool gates = x.ndim() == 5;
    out = {x.data<P>(), x.stride(0), x.stride(1), gates ? x.stride(2) : 0, x.stride(gates ? 3 : 2)};
}
template <class H, class Other> void point(PerState<H, Other>& out, int state, const Array& x) {
    if (state == 0)
        point(out.h, x);
    else
        point(out.others[state - 1], x);
}

// Numbers converted to the type of the computation
template <class S> std::vector<accumulate_t<S>> numbers_of(const Array& x, int64_t count) {
    const S* from = x.data<const S>();
    std::vector<accumulate_t<S>> to(static_cast<size_t>(count));
    for (size_t i = 0; i < to.size(); ++i) {
        if constexpr (sizeof(S) == 2)
            to[i] = widened(from[i]);
        else
            to[i] = from[i];
    }
    return to;
}

// Writes the elements of an array with any strides, such as 0, one after the other; returns the end of what it wrote.
template <class S> S* write_dense(const Array& x, int axis, const S* from, S* to) {
    const int64_t count = x.size(axis), stride = x.stride(axis);
    if (axis < x.ndim() - 1) {
        for (int64_t i = 0; i < count; ++i) to = write_dense(x, axis + 1, from + i * stride, to);
        return to;
    }
    if (stride == 0) return std::fill_n(to, count, *from);
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
    return to + count;
}

// A tensor or None for each state, at most `count`
struct Views {
    Array view[kMaxStates];
    bool present[kMaxStates] = {};
    int size = 0;
    py::object copies[kMaxStates];

    bool read(PyObject* x, int count) {
        if (!PyTuple_CheckExact(x) && !PyList_CheckExact(x)) return false;
        size = int(PySequence_Fast_GET_SIZE(x));
        if (size > count) return false;
        for (int i = 0; i < size; ++i) {
            PyObject* item = PySequence_Fast_GET_ITEM(x, i);
            present[i] = item != Py_None;
            if (present[i] && !view[i].read(item)) return false;
        }
        return true;
    }
    // Replaces gradients that the kernels cannot read, such as that of a sum, which is expanded, by contiguous copies.
    template <class F> void make_dense(F is_readable) {
        for (int i = 0; i < kMaxStates; ++i) {
            const Array x = view[i];
            const int axes = present[i] ? x.ndim() : 0;
            if ((axes != 3 && axes != 4) || x.is_empty() || is_readable(x)) continue;
            copies[i] = axes == 3 ? new_tensor(x, {x.size(0), x.size(1), x.size(2)})
                                  : new_tensor(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
            view[i].read(copies[i].ptr());
            with_storage(x.bits(), [&]<class S>() { write_dense(x, 0, x.data<const S>(), view[i].data<S>()); });
        }
    }
    bool is_whole(int count) const {
        for (int i = 0; i < count; ++i)
            if (!present[i]) return false;
        return true;
    }
    bool is_whole_or_none(int count) const { return size == 0 || is_whole(count); }
    // Whether each given tensor has the dtype of its state for an h of `bits` bits, and satisfies `fits`
    template <class F> bool all(int bits, F fits) const {
        for (int i = 0; i < kMaxStates; ++i)
            if (present[i] && !(view[i].bits() == bits_of_state(i, bits) && fits(view[i]))) return false;
        return true;
    }
    template <class H, class Other> void point_at(PerState<H, Other>& out) const {
        for (int i = 0; i < kMaxStates; ++i)
            if (present[i]) point(out, i, view[i]);
    }
};

// New tensors, in the order of the result, with the dtype of `like` unless another is given
struct Outputs {
    const Array& like;
    py::list all{};

    Array add(std::initializer_list<int64_t> shape) { return view_of(new_tensor(like, shape)); }
    void add_state(auto& out, int state, std::initializer_list<int64_t> shape) {
        point(out, state, view_of(new_tensor(like, shape, bits_of_state(state, like.bits()), {0, 1, 2})));
    }
    // (B, T, N, D) and (B, T, G, N, D), time-major if `like` is
    Array add_steps_of_state(int state, std::initializer_list<int64_t> shape) {
        const int bits = bits_of_state(state, like.bits());
        return view_of(is_time_major() ? new_tensor(like, shape, bits, {1, 0, 2, 3})
                                       : new_tensor(like, shape, bits, {0, 1, 2, 3}));
    }
    Array add_steps_of_gates(std::initializer_list<int64_t> shape) {
        return view_of(is_time_major() ? new_tensor(like, shape, like.bits(), {1, 0, 2, 3, 4})
                                       : new_tensor(like, shape));
    }
    // The same with heads and then time outermost, for tensors that only kernels read: a step of a head is contiguous.
    void add_saved_state(auto& out, int state, std::initializer_list<int64_t> shape) {
        point(out, state, view_of(new_tensor(like, shape, bits_of_state(state, like.bits()), {2, 1, 0, 3})));
    }
    Array add_saved_gates(std::initializer_list<int64_t> shape) {
        return view_of(new_tensor(like, shape, computed_bits(like.bits()), {3, 1, 0, 2, 4}));
    }

private:
    bool is_time_major() const { return like.stride(1) > like.stride(0); }
    Array view_of(py::object tensor) {
        Array view;
        view.read(tensor.ptr());
        all.append(std::move(tensor));
        return view;
    }
};

// Results that the backward pass reads, and private copies of them, as the user may write to the results
class OwnCopies {
public:
    void add(const Array& result, const Array& own) { pairs_.push_back({result, own}); }
    void run() const {
        for (const auto& [result, own] : pairs_) run_copy(result.data<void>(), result.bytes(), own.data<void>());
    }

private:
    struct Pair {
        Array result, own;
    };
    std::vector<Pair> pairs_;
};

} // namespace fastiter::rnn
