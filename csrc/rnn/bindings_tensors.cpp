// The recurrences on dense tensors in one call: the same as python/fastiter/rnn/_torch/ops.py does step by step. Handles
// only valid, plain arguments; for all others it returns None, and the Python path runs and reports errors.
#include "core/arguments.hpp"
#include "rnn/views.hpp"

namespace fastiter::rnn {
namespace {

// wx (B, T, G, N, D), r (G, N, D, D), b (G, N, D) or None, the state or None. All match the shape of wx
// and have its dtype; beside bfloat16, b may be float32, and the states other than h are float32.
struct Inputs {
    CellOf cell;
    Array wx, r, b;
    Views state;
    bool has_b = false;

    explicit Inputs(const py::tuple& cell_of) : cell(cell_of) {}

    bool read(py::handle wx_, py::handle r_, py::handle b_, py::handle state_) {
        if (!wx.read(wx_.ptr()) || wx.ndim() != 5 || wx.size(2) != cell.gates || wx.size(3) < 1 || wx.size(4) < 1)
            return false;
        const int64_t B = wx.size(0), G = cell.gates, N = wx.size(3), D = wx.size(4);
        auto fits = [](const Array& x, std::initializer_list<int64_t> shape) {
            return x.has_shape(shape) && x.is_contiguous();
        };
        if (!wx.has_unit_stride()) return false;
        if (!r.read(r_.ptr()) || r.bits() != wx.bits() || !fits(r, {G, N, D, D})) return false;
        has_b = !b_.is_none();
        if (has_b && (!b.read(b_.ptr()) || !fits(b, {G, N, D}))) return false;
        if (has_b && b.bits() != wx.bits() && b.bits() != computed_bits(wx.bits())) return false;
        if (!state_.is_none() && !state.read(state_.ptr(), cell.states)) return false;
        if (!state.is_whole_or_none(cell.states)) return false;
        return state.all(wx.bits(), [&](const Array& x) { return fits(x, {B, N, D}); });
    }
};

// b in the type of the computation; `wide` holds it if it has to be converted.
template <class S> const accumulate_t<S>* bias_of(const Array& b, std::vector<float>& wide) {
    if constexpr (sizeof(S) == 2) {
        if (b.bits() == 16) {
            wide = numbers_of<bf16>(b, b.size(0) * b.size(1) * b.size(2));
            return wide.data();
        }
    }
    return b.data<const accumulate_t<S>>();
}

// Returns h, the final states and, with all_states, the other states of all steps; with `save` also the tensors for the
// backward pass, invisible to the user: all states and the gates.
template <class S> py::object forward(const Inputs& in, bool reverse, bool all_states, bool save) {
    const int64_t B = in.wx.size(0), T = in.wx.size(1), N = in.wx.size(3), D = in.wx.size(4);
    const int states = in.cell.states;
    std::vector<float> wide;
    RnnForward<S> p;
    p.shape = in.cell.shape_of(B, T, N, D, reverse);
    point(p.wx, in.wx);
    point(p.r, in.r);
    if (in.has_b) p.b = bias_of<S>(in.b, wide);
    in.state.point_at(p.first);
    Outputs out{in.wx};
    OwnCopies own;
    Array every[kMaxStates];
    const int seen = all_states ? states : 1;
    every[0] = out.add_steps_of_state(0, {B, T, N, D});
    for (int i = 0; i < states; ++i) out.add_state(p.last, i, {B, N, D});
    for (int i = 1; i < seen; ++i) every[i] = out.add_steps_of_state(i, {B, T, N, D});
    for (int i = 0; i < seen; ++i) point(p.states, i, every[i]);
    for (int i = 0; i < seen && save; ++i) own.add(every[i], out.add_steps_of_state(i, {B, T, N, D}));
    for (int i = seen; i < states && save; ++i) out.add_kept_state(p.states, i, {B, T, N, D});
    if (save && in.cell.saved) point(p.saved, out.add_kept_gates({B, T, in.cell.saved, N, D}));
    {
        py::gil_scoped_release release;
        run_forward(p);
        own.run();
    }
    return std::move(out.all);
}

// The saved tensors of the forward pass, and the incoming gradients. Their shapes are those of the forward pass, but
// autograd's saved-tensor hooks may have moved them to other memory.
struct Kept {
    CellOf cell;
    Array r, saved;
    Views state, states, dstates, dlast;
    bool has_saved = false;

    explicit Kept(const py::tuple& cell_of) : cell(cell_of) {}

    const Array& h() const { return states.view[0]; }

    bool read(py::handle r_, py::handle first, py::handle states_, py::handle saved_, py::handle dstates_,
              py::handle dlast_) {
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(saved_.ptr());
        has_saved = count == 1;
        if (count > 1 || has_saved != (cell.saved > 0)) return false;
        if (has_saved && !saved.read(PySequence_Fast_GET_ITEM(saved_.ptr(), 0))) return false;
        if (!r.read(r_.ptr()) || !r.is_contiguous() || !state.read(first.ptr(), cell.states)) return false;
        if (!state.is_whole_or_none(cell.states)) return false;
        if (!states.read(states_.ptr(), cell.states) || !states.is_whole(cell.states) || h().ndim() != 4) return false;
        if (!dstates.read(dstates_.ptr(), cell.states) || !dlast.read(dlast_.ptr(), cell.states)) return false;
        const int bits = h().bits();
        const auto is_plain = [](const Array& x) { return x.is_contiguous(); };
        const auto has_lines = [](const Array& x) { return x.has_unit_stride(); };
        if (r.bits() != bits || !state.all(bits, is_plain) || !dlast.all(bits, is_plain)) return false;
        if (!states.all(bits, has_lines) || !dstates.all(bits, has_lines)) return false;
        return !has_saved || (saved.bits() == computed_bits(bits) && has_lines(saved));
    }
};

template <class S> py::object backward(const Kept& in, bool reverse, bool need_r, bool need_b, bool need_state) {
    const Array& h = in.h();
    const int64_t B = h.size(0), T = h.size(1), N = h.size(2), D = h.size(3), G = in.cell.gates;
    RnnBackward<S> p;
    p.shape = in.cell.shape_of(B, T, N, D, reverse);
    point(p.r, in.r);
    in.state.point_at(p.first);
    if (in.has_saved) point(p.saved, in.saved);
    in.states.point_at(p.states);
    in.dstates.point_at(p.dstates);
    in.dlast.point_at(p.dlast);
    Outputs out{h};
    point(p.dwx, out.add_steps_of_gates({B, T, G, N, D}));
    S* dr = nullptr;
    if (need_r) point(dr, out.add({G, N, D, D}));
    if (need_b) point(p.db, out.add({G, N, D}));
    for (int i = 0; need_state && i < in.cell.states; ++i) out.add_state(p.dfirst, i, {B, N, D});
    {
        py::gil_scoped_release release;
        run_backward(p, dr);
    }
    return std::move(out.all);
}

// For the public functions' arguments: an empty tuple is not a valid state, and b must have the dtype of wx.
bool rnn_fits(const py::tuple& cell, py::handle wx, py::handle r, py::handle b, py::handle state) {
    Inputs in(cell);
    if (!in.read(wx, r, b, state)) return false;
    return (in.state.size > 0) == !state.is_none() && (!in.has_b || in.b.bits() == in.wx.bits());
}

py::object rnn_fwd(const py::tuple& cell, py::handle wx, py::handle r, py::handle b, py::handle state, bool reverse,
                   bool all_states, bool save) {
    Inputs in(cell);
    if (!in.read(wx, r, b, state)) return py::none();
    return with_storage(in.wx.bits(), [&]<class S>() { return forward<S>(in, reverse, all_states, save); });
}

py::object rnn_bwd(const py::tuple& cell, py::handle r, py::handle first, const py::list& states, const py::list& saved,
                   const py::list& dstates, py::handle dlast, bool reverse, bool need_r, bool need_b, bool need_state) {
    Kept in(cell);
    if (!in.read(r, first, states, saved, dstates, dlast)) return py::none();
    return with_storage(in.h().bits(), [&]<class S>() { return backward<S>(in, reverse, need_r, need_b, need_state); });
}

} // namespace

void bind_tensors(py::module_& m) {
    m.def("fits_tensors", rnn_fits);
    m.def("forward_tensors", rnn_fwd);
    m.def("backward_tensors", rnn_bwd);
}

} // namespace fastiter::rnn
