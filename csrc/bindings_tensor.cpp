// The recurrences on small dense tensors, whole: what python/fastiter/torch/_rnn_op.py does step by step, in one call. Here are
// only arguments that need no word of explanation; for all others the answer is None, and the longer way explains.
#include "bindings.hpp"
#include "run.hpp"
#include "tensors.hpp"
#include <vector>

namespace fastiter {
namespace {

constexpr int64_t kLargest = 1 << 20; // bytes of a result; larger ones come from memory that was used before

// (code, gates, states, saved) of python/fastiter/_rnn.py
struct CellOf {
    Cell code;
    int64_t gates;
    int states;
    int64_t saved;
    explicit CellOf(const py::tuple& x)
        : code(Cell(at(x, 0))), gates(at(x, 1)), states(int(at(x, 2))), saved(at(x, 3)) {}
    static int64_t at(const py::tuple& x, int i) { return integer(PyTuple_GET_ITEM(x.ptr(), i)); }
};

// Of float and double all states have one type.
template <class T> T& of(PerState<T, T>& each, int state) { return state == 0 ? each.h : each.others[state - 1]; }

// The tensors of a tuple or list of `count`; none at all for an empty one or None
struct Views {
    View view[kMaxStates];
    bool given = false;
    bool read(PyObject* x, int count) {
        if (x == Py_None) return true;
        const bool is_tuple = PyTuple_CheckExact(x);
        if (!is_tuple && !PyList_CheckExact(x)) return false;
        const Py_ssize_t size = is_tuple ? PyTuple_GET_SIZE(x) : PyList_GET_SIZE(x);
        if (size == 0) return true;
        if (size != count) return false;
        given = true;
        for (int i = 0; i < count; ++i)
            if (!view[i].read(is_tuple ? PyTuple_GET_ITEM(x, i) : PyList_GET_ITEM(x, i))) return false;
        return true;
    }
    template <class T> void addresses(int count, PerState<const T*, const T*>& out) const {
        for (int i = 0; given && i < count; ++i) of(out, i) = view[i].data<T>();
    }
};

// wx (B, T, G, N, D), r (G, N, D, D), b (G, N, D) or None, the state: everything has one dtype and the shape that wx says.
struct Inputs {
    CellOf cell;
    View wx, r, b;
    Views state;
    bool has_b = false;

    explicit Inputs(const py::tuple& cell_of) : cell(cell_of) {}

    bool read(py::handle wx_, py::handle r_, py::handle b_, py::handle state_) {
        if (!wx.read(wx_.ptr()) || wx.ndim() != 5 || wx.size(2) != cell.gates || wx.size(3) < 1 || wx.size(4) < 1)
            return false;
        const int64_t B = wx.size(0), G = cell.gates, N = wx.size(3), D = wx.size(4);
        auto fits = [&](const View& x, std::initializer_list<int64_t> shape) {
            return x.bits() == wx.bits() && x.has_shape(shape) && x.is_contiguous();
        };
        if (!wx.has_unit_stride() || wx.stride(1) > wx.stride(0)) return false; // time-major results are views
        if (!r.read(r_.ptr()) || !fits(r, {G, N, D, D})) return false;
        has_b = !b_.is_none();
        if (has_b && (!b.read(b_.ptr()) || !fits(b, {G, N, D}))) return false;
        if (!state.read(state_.ptr(), cell.states)) return false;
        for (int i = 0; state.given && i < cell.states; ++i)
            if (!fits(state.view[i], {B, N, D})) return false;
        const int64_t most = cell.saved > 1 ? cell.saved : 1;
        return B * wx.size(1) * most * N * D * (wx.bits() / 8) < kLargest;
    }
};

template <class T> Steps<T> steps_of(const View& x) {
    const bool gates = x.ndim() == 5;
    return {x.data<std::remove_const_t<T>>(), x.stride(0), x.stride(1), gates ? x.stride(2) : 0,
            x.stride(gates ? 3 : 2)};
}

// A new tensor and its view
struct Output {
    py::object object;
    View view;
    Output(const View& like, std::initializer_list<int64_t> shape) : object(new_tensor(like, shape)) {
        view.read(object.ptr());
    }
};

template <class T> py::object forward(const Inputs& in, bool reverse, bool all_states, bool save) {
    const View& wx = in.wx;
    const int64_t B = wx.size(0), steps = wx.size(1), N = wx.size(3), D = wx.size(4);
    RnnForward<T> p;
    p.shape.cell = in.cell.code, p.shape.reverse = reverse;
    p.shape.B = B, p.shape.T = steps, p.shape.N = N, p.shape.D = D;
    p.wx = steps_of<const T>(wx);
    p.r = in.r.data<T>();
    p.b = in.has_b ? in.b.data<T>() : nullptr;
    in.state.addresses(in.cell.states, p.first);
    std::vector<Output> outputs;
    auto add = [&](std::initializer_list<int64_t> shape) -> const View& {
        outputs.emplace_back(wx, shape);
        return outputs.back().view;
    };
    p.states.h = steps_of<T>(add({B, steps, N, D}));
    for (int i = 0; i < in.cell.states; ++i) of(p.last, i) = add({B, N, D}).template data<T>();
    for (int i = 1; i < in.cell.states && (all_states || save); ++i)
        of(p.states, i) = steps_of<T>(add({B, steps, N, D}));
    if (save && in.cell.saved) p.saved = steps_of<T>(add({B, steps, in.cell.saved, N, D}));
    {
        py::gil_scoped_release release;
        run_forward(p);
    }
    py::list result;
    for (Output& output : outputs) result.append(std::move(output.object));
    return result;
}

// Tensors or None, `count` at most
struct OptionalViews {
    View view[kMaxStates];
    bool given[kMaxStates] = {};
    bool read(PyObject* x) {
        if (!PyTuple_CheckExact(x) && !PyList_CheckExact(x)) return false;
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(x);
        if (count > kMaxStates) return false;
        for (Py_ssize_t i = 0; i < count; ++i) {
            PyObject* item = PySequence_Fast_GET_ITEM(x, i);
            given[i] = item != Py_None;
            if (given[i] && !view[i].read(item)) return false;
        }
        return true;
    }
};

// What the forward pass kept, and the gradients that come in: everything as the forward pass made it
struct Kept {
    CellOf cell;
    View r, saved;
    Views state, states;
    OptionalViews dstates, dlast;
    bool has_saved = false;

    explicit Kept(const py::tuple& cell_of) : cell(cell_of) {}

    const View& h() const { return states.view[0]; }

    bool read(py::handle r_, py::handle first, py::handle states_, py::handle saved_, py::handle dstates_,
              py::handle dlast_) {
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(saved_.ptr());
        has_saved = count == 1;
        if (count > 1 || has_saved != (cell.saved > 0)) return false;
        if (has_saved && !saved.read(PySequence_Fast_GET_ITEM(saved_.ptr(), 0))) return false;
        if (!r.read(r_.ptr()) || !r.is_contiguous() || !state.read(first.ptr(), cell.states)) return false;
        if (!states.read(states_.ptr(), cell.states) || !states.given || h().ndim() != 4) return false;
        if (!dstates.read(dstates_.ptr()) || !dlast.read(dlast_.ptr())) return false;
        for (int i = 0; i < cell.states; ++i) {
            if (state.given && !state.view[i].is_contiguous()) return false;
            if (dstates.given[i] && !dstates.view[i].has_unit_stride()) return false;
            if (dlast.given[i] && !dlast.view[i].is_contiguous()) return false;
        }
        const int64_t lines = h().size(0) * h().size(1) * h().size(2) * h().size(3);
        return h().stride(1) <= h().stride(0) && lines * cell.gates * (h().bits() / 8) < kLargest &&
               r.size(0) * r.size(1) * r.size(2) * r.size(3) * (r.bits() / 8) < kLargest;
    }
};

template <class T> py::object backward(const Kept& in, bool reverse, bool need_r, bool need_b, bool need_state) {
    const View& h = in.h();
    const int64_t B = h.size(0), steps = h.size(1), N = h.size(2), D = h.size(3), G = in.cell.gates;
    const int S = in.cell.states;
    RnnBackward<T> p;
    p.shape.cell = in.cell.code, p.shape.reverse = reverse;
    p.shape.B = B, p.shape.T = steps, p.shape.N = N, p.shape.D = D;
    p.r = in.r.data<T>();
    in.state.addresses(S, p.first);
    if (in.has_saved) p.saved = steps_of<const T>(in.saved);
    for (int i = 0; i < S; ++i) {
        of(p.states, i) = steps_of<const T>(in.states.view[i]);
        if (in.dstates.given[i]) of(p.dstates, i) = steps_of<const T>(in.dstates.view[i]);
        if (in.dlast.given[i]) of(p.dlast, i) = in.dlast.view[i].data<T>();
    }
    py::list result;
    auto add = [&](std::initializer_list<int64_t> shape) {
        Output output(h, shape);
        result.append(output.object);
        return output.view;
    };
    p.dwx = steps_of<T>(add({B, steps, G, N, D}));
    T* dr = need_r ? add({G, N, D, D}).template data<T>() : nullptr;
    if (need_b) p.db = add({G, N, D}).template data<T>();
    for (int i = 0; need_state && i < S; ++i) of(p.dfirst, i) = add({B, N, D}).template data<T>();
    {
        py::gil_scoped_release release;
        run_backward(p, dr);
    }
    return result;
}

bool rnn_fits(const py::tuple& cell, py::handle wx, py::handle r, py::handle b, py::handle state) {
    Inputs in(cell);
    return in.read(wx, r, b, state) && in.state.given == !state.is_none(); // an empty tuple is no state
}

py::object rnn_fwd(const py::tuple& cell, py::handle wx, py::handle r, py::handle b, py::handle state, bool reverse,
                   bool all_states, bool save) {
    Inputs in(cell);
    if (!in.read(wx, r, b, state)) return py::none();
    return in.wx.bits() == 32 ? forward<float>(in, reverse, all_states, save)
                              : forward<double>(in, reverse, all_states, save);
}

py::object rnn_bwd(const py::tuple& cell, py::handle r, py::handle first, const py::list& states, const py::list& saved,
                   const py::list& dstates, py::handle dlast, bool reverse, bool need_r, bool need_b, bool need_state) {
    Kept in(cell);
    if (!in.read(r, first, states, saved, dstates, dlast)) return py::none();
    return in.h().bits() == 32 ? backward<float>(in, reverse, need_r, need_b, need_state)
                               : backward<double>(in, reverse, need_r, need_b, need_state);
}

} // namespace

void define_tensor(py::module_& m) {
    m.def("use_tensors", use_tensors);
    m.def("rnn_fits_tensors", rnn_fits);
    m.def("rnn_fwd_tensors", rnn_fwd);
    m.def("rnn_bwd_tensors", rnn_bwd);
}

} // namespace fastiter
