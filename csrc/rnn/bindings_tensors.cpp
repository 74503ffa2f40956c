// A recurrence over dense tensors in one call, and a torch.nn layer with its input projection: the same computation as
// op by op in python/fastiter/rnn/_torch/ops.py and nn/layer.py, where small layers spend most of their time between
// the ops. Handles only valid, plain arguments; for all others it returns None, and the Python path runs and reports
// errors.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "dense/run.hpp"
#include "rnn/views.hpp"

namespace fastiter::rnn {

using dense::run_column_sums, dense::run_product;

namespace {

PyObject* at(const py::handle& tuple, int i) { return PyTuple_GET_ITEM(tuple.ptr(), i); }

// The arrays of a recurrence, all of one dtype, except that with a bfloat16 h the other states are float32:
//   wx (B, T, G, N, D), r (G, N, D, D), b (G, N, D) or none; b may be float32 if the others are bfloat16
//   a layer: x (T, B, I), w_ih (G N D, I), w_hh (G N D, D), both biases (G N D,) or neither; h and dh are (T, B, N D)
// The initial states are (B, N, D), or none; the lengths of the rows (B,), each from 0 to T, or none; the reset flags
// (B, T), or none. With the bounds (S + 1,) of S concatenated sequences, B is 1, and the states are (S, N, D).
struct Sequence {
    int64_t code; // the cell's number
    CellSize cell;
    bool is_layer = false;
    int64_t B = 0, T = 0, N = 0, D = 0, I = 0;
    Array x, w_ih, r, b_ih, b; // x is wx, r is w_hh and b is b_hh
    bool has_b = false;
    Views first;
    const int64_t *lengths = nullptr, *bounds = nullptr;
    const bool* reset = nullptr;
    int64_t sequences = 0; // B, or S
    std::vector<int64_t> lengths_of_sequences;

    explicit Sequence(int64_t code_) : code(code_), cell(size_of(code_)) {}

    int64_t H() const { return N * D; }
    int64_t gates() const { return cell.gates * H(); }
    RnnShape shape(bool reverse) const {
        RnnShape s;
        set_cell(s, code);
        s.B = sequences;
        s.T = bounds ? *std::max_element(lengths_of_sequences.begin(), lengths_of_sequences.end()) : T;
        s.N = N;
        s.D = D;
        s.reverse = reverse;
        s.lengths = bounds ? lengths_of_sequences.data() : lengths;
        s.starts = bounds;
        s.packed_rows = bounds ? T : 0;
        s.reset = reset;
        s.reset_row = T;
        return s;
    }
    bool has_separate_biases() const { return is_layer && cell.separates; }

    bool read_gates(py::handle wx, py::handle r_) {
        if (!x.read(wx.ptr()) || x.ndim() != 5 || x.size(2) != cell.gates || !x.has_unit_stride()) return false;
        B = x.size(0);
        T = x.size(1);
        N = x.size(3);
        D = x.size(4);
        return N > 0 && D > 0 && r.read(r_.ptr()) && is_plain(r, {cell.gates, N, D, D}, x.bits());
    }
    bool read_layer(py::handle x_, py::handle w_ih_, int64_t heads, py::handle w_hh) {
        is_layer = true;
        if (!x.read(x_.ptr()) || x.ndim() != 3 || x.is_empty() || !x.is_contiguous()) return false;
        if (!r.read(w_hh.ptr()) || r.ndim() != 2) return false;
        T = x.size(0);
        B = x.size(1);
        I = x.size(2);
        N = heads;
        D = r.size(1);
        return is_plain(r, {gates(), D}, x.bits()) && w_ih.read(w_ih_.ptr()) && is_plain(w_ih, {gates(), I}, x.bits());
    }
    bool read_bias(py::handle b_) {
        has_b = !b_.is_none();
        if (!has_b) return true;
        return b.read(b_.ptr()) &&
               (is_plain(b, {cell.gates, N, D}, x.bits()) || is_plain(b, {cell.gates, N, D}, computed_bits(x.bits())));
    }
    bool read_biases(py::handle b_ih_, py::handle b_hh) {
        has_b = !b_ih_.is_none();
        if (has_b == b_hh.is_none()) return false;
        return !has_b || (b_ih.read(b_ih_.ptr()) && b.read(b_hh.ptr()) && is_plain(b_ih, {gates()}, x.bits()) &&
                          is_plain(b, {gates()}, x.bits()));
    }
    bool read_first(py::handle first_, int bits) {
        if (!first.read(first_.ptr(), cell.states) || !first.is_whole_or_none(cell.states)) return false;
        return first.all(bits, [&](const Array& s) { return s.has_shape({sequences, N, D}) && s.is_contiguous(); });
    }

    // cut: lengths, bounds, reset
    bool read_cut(const py::tuple& cut) {
        return read_lengths(at(cut, 0)) && read_bounds(at(cut, 1)) && read_reset(at(cut, 2));
    }
    bool read_lengths(PyObject* lengths_) {
        sequences = B;
        if (lengths_ == Py_None) return true;
        Array x;
        if (!x.read_integers(lengths_) || !x.has_shape({B}) || !x.is_contiguous()) return false;
        lengths = x.data<const int64_t>();
        return std::all_of(lengths, lengths + B, [&](int64_t length) { return 0 <= length && length <= T; });
    }
    bool read_bounds(PyObject* bounds_) {
        if (bounds_ == Py_None) return true;
        Array x;
        if (lengths || B != 1 || !x.read_integers(bounds_) || x.ndim() != 1 || x.size(0) < 2 || !x.is_contiguous())
            return false;
        bounds = x.data<const int64_t>();
        sequences = x.size(0) - 1;
        for (int64_t i = 0; i < sequences; ++i) lengths_of_sequences.push_back(bounds[i + 1] - bounds[i]);
        const auto is_negative = [](int64_t length) { return length < 0; };
        return bounds[0] == 0 && bounds[sequences] == T &&
               std::none_of(lengths_of_sequences.begin(), lengths_of_sequences.end(), is_negative);
    }
    bool read_reset(PyObject* reset_) {
        if (reset_ == Py_None) return true;
        Array x;
        if (!x.read_flags(reset_) || !x.has_shape({B, T}) || !x.is_contiguous()) return false;
        reset = x.data<const bool>();
        return true;
    }

    static bool is_plain(const Array& v, std::initializer_list<int64_t> shape, int bits) {
        return v.bits() == bits && v.has_shape(shape) && v.is_contiguous();
    }

    // Steps of a layer's (T, B, N D), or of the axes (B, T, N, D)
    template <class P> void point_at_steps(Steps<P>& out, const Array& v) const {
        if (v.ndim() == 3)
            out = {v.data<P>(), v.stride(1), v.stride(0), 0, D};
        else
            point(out, v);
    }
    // Steps of W x, contiguous (T, B, G, N, D)
    template <class P> Steps<P> steps_of_gates(P* data) const { return {data, gates(), B * gates(), H(), D}; }

    Array new_h(Outputs& out) const {
        return is_layer ? out.add({T, B, H()}) : out.add_steps_of_state(0, {B, T, N, D});
    }
};

// The biases in the type of the computation. If both of a layer are added to the same sums, they are combined into one
// array. The GRU's b_n is not, as it is inside r (R_n h + b_n).
template <class S> struct Biases {
    using T = accumulate_t<S>;
    std::vector<T> converted, converted_ih;
    const T *of_x = nullptr, *of_h = nullptr;

    explicit Biases(const Sequence& in) {
        if (!in.has_b) return;
        if (!in.is_layer && in.b.bits() == 8 * int(sizeof(T))) {
            of_h = in.b.data<const T>();
            return;
        }
        converted = numbers_of<S>(in.b, in.gates());
        of_h = converted.data();
        if (!in.is_layer) return;
        converted_ih = numbers_of<S>(in.b_ih, in.gates());
        if (in.has_separate_biases())
            of_x = converted_ih.data();
        else
            for (size_t i = 0; i < converted.size(); ++i) converted[i] += converted_ih[i];
    }
};

// Returns h, the final states (of a layer (1, B, N D)) and, with all_states, the other states of all steps; with `save`
// also the tensors for the backward pass, invisible to the user: all states and the gates.
template <class S> py::object forward(const Sequence& in, bool reverse, bool all_states, bool save) {
    const int64_t B = in.B, T = in.T, N = in.N, D = in.D, gates = in.gates();
    const int states = in.cell.states, returned = all_states ? states : 1;
    const Biases<S> b(in);
    Block<S> wx;
    RnnForward<S> p;
    p.shape = in.shape(reverse);
    if (!in.is_layer) {
        point(p.wx, in.x);
    } else if (kernels<S>().multiplies_x(p.shape, in.I)) {
        p.x = {in.x.data<const S>(), in.I, B * in.I, in.I, in.w_ih.data<const S>(), b.of_x};
    } else {
        wx = Block<S>(T * B * gates);
        p.wx = in.steps_of_gates<const S>(wx.data());
    }
    point(p.r, in.r);
    p.b = b.of_h;
    in.first.point_at(p.first);
    Outputs out{in.x};
    OwnCopies own;
    Array every[kMaxStates];
    every[0] = in.new_h(out);
    in.point_at_steps(p.states.h, every[0]);
    for (int i = 0; i < states; ++i)
        in.is_layer ? out.add_state(p.last, i, {1, in.sequences, in.H()})
                    : out.add_state(p.last, i, {in.sequences, N, D});
    for (int i = 1; i < returned; ++i) point(p.states, i, every[i] = out.add_steps_of_state(i, {B, T, N, D}));
    if (save) own.add(every[0], in.new_h(out));
    for (int i = 1; i < returned && save; ++i) own.add(every[i], out.add_steps_of_state(i, {B, T, N, D}));
    for (int i = returned; i < states && save; ++i) out.add_saved_state(p.states, i, {B, T, N, D});
    if (save && in.cell.saved) point(p.saved, out.add_saved_gates({B, T, in.cell.saved, N, D}));
    {
        py::gil_scoped_release release;
        if (wx.size())
            run_product<S>(T * B, gates, in.I, {in.x.data<const S>(), in.I, 1}, {in.w_ih.data<const S>(), 1, in.I},
                           b.of_x, wx.data());
        run_forward(p);
        own.run();
    }
    return std::move(out.all);
}

// The gradients to compute. The biases share one gradient if they are added to the same sums.
struct Needs {
    bool r, b, first, x = false, w_ih = false, b_ih = false; // the last three: for a layer
};

// The saved tensors of the forward pass, and the incoming gradients. Their shapes are those of the forward pass, but
// autograd's saved-tensor hooks may have moved them to other memory.
struct Saved : Sequence {
    Views states, saved, dstates, dlast;
    using Sequence::Sequence;

    const Array& h() const { return states.view[0]; }

    // For tensors whose sizes no layer has set
    bool read_sizes(py::handle r_) {
        const Array& y = h();
        if (y.ndim() != 4 || !r.read(r_.ptr()) || r.bits() != y.bits() || !r.is_contiguous()) return false;
        B = y.size(0);
        T = y.size(1);
        N = y.size(2);
        D = y.size(3);
        return true;
    }
    bool read_states(py::handle states_, py::handle saved_) {
        if (!states.read(states_.ptr(), cell.states) || !states.is_whole(cell.states)) return false;
        return saved.read(saved_.ptr(), 1) && saved.is_whole(saved.size) && saved.size == (cell.saved > 0);
    }
    // Whether all have the layouts that the kernel reads
    bool read_gradients(py::handle dstates_, py::handle dlast_) {
        if (!dstates.read(dstates_.ptr(), cell.states) || !dlast.read(dlast_.ptr(), cell.states)) return false;
        const int bits = h().bits();
        dstates.make_dense([](const Array& v) { return v.has_unit_stride(); });
        dlast.make_dense([](const Array& v) { return v.is_contiguous(); });
        const auto has_lines = [](const Array& v) { return v.has_unit_stride(); };
        const auto is_last = [&](const Array& v) {
            return is_layer ? v.has_shape({1, sequences, H()}) && v.is_contiguous() : v.is_contiguous();
        };
        if (!states.all(bits, has_lines) || !dstates.all(bits, has_lines) || !dlast.all(bits, is_last)) return false;
        if (is_layer && (bits != x.bits() || !is_of_layer(h()) || !is_of_layer(dstates.view[0]))) return false;
        return !saved.size || (saved.view[0].bits() == computed_bits(bits) && has_lines(saved.view[0]));
    }
    bool is_of_layer(const Array& v) const { return v.ndim() == 0 || v.has_shape({T, B, H()}); }
};

// Sets all inputs of the kernel.
template <class S> RnnBackward<S> read_by_kernel(const Saved& in, bool reverse) {
    RnnBackward<S> p;
    p.shape = in.shape(reverse);
    point(p.r, in.r);
    in.first.point_at(p.first);
    if (in.saved.size) point(p.saved, in.saved.view[0]);
    in.point_at_steps(p.states.h, in.h());
    if (in.dstates.present[0]) in.point_at_steps(p.dstates.h, in.dstates.view[0]);
    for (int i = 1; i < in.cell.states; ++i) {
        point(p.states, i, in.states.view[i]);
        if (in.dstates.present[i]) point(p.dstates, i, in.dstates.view[i]);
    }
    in.dlast.point_at(p.dlast);
    return p;
}

// Computes dwx, or dx and dw_ih for a layer; then dr, db, a layer's db_ih if distinct, and the gradients (B, N, D) of
// the initial states, each only if needed.
template <class S> py::object backward(const Saved& in, bool reverse, const Needs& need) {
    const int64_t B = in.B, T = in.T, N = in.N, D = in.D, G = in.cell.gates;
    const int64_t outputs = in.gates(), inputs = in.I, lines = T * B;
    const bool has_two = in.has_separate_biases(), need_b = need.b || (need.b_ih && !has_two);
    RnnBackward<S> p = read_by_kernel<S>(in, reverse);
    Block<S> space;
    Outputs out{in.is_layer ? in.x : in.h()};
    S *dx = nullptr, *dw_ih = nullptr, *dr = nullptr, *db_ih = nullptr;
    if (in.is_layer) {
        space = Block<S>(lines * outputs);
        p.dwx = in.steps_of_gates<S>(space.data());
        if (need.x) point(dx, out.add({T, B, inputs}));
        if (need.w_ih) point(dw_ih, out.add({outputs, inputs}));
        if (need.r) point(dr, out.add({outputs, D}));
        if (need_b) point(p.db, out.add({outputs}));
        if (need.b_ih && has_two) point(db_ih, out.add({outputs}));
    } else {
        point(p.dwx, out.add_steps_of_gates({B, T, G, N, D}));
        if (need.r) point(dr, out.add({G, N, D, D}));
        if (need_b) point(p.db, out.add({G, N, D}));
    }
    for (int i = 0; need.first && i < in.cell.states; ++i) out.add_state(p.dfirst, i, {in.sequences, N, D});
    const S* const dwx = space.data();
    {
        py::gil_scoped_release release;
        run_backward(p, dr);
        if (dx)
            run_product<S>(lines, inputs, outputs, {dwx, outputs, 1}, {in.w_ih.data<const S>(), inputs, 1}, nullptr,
                           dx);
        if (dw_ih)
            run_product<S>(outputs, inputs, lines, {dwx, 1, outputs}, {in.x.data<const S>(), inputs, 1}, nullptr,
                           dw_ih);
        if (db_ih) run_column_sums(dwx, lines, outputs, db_ih);
    }
    return std::move(out.all);
}

// For the public functions' arguments: an empty tuple is not a valid state, and b must have the dtype of wx.
bool rnn_fits(int64_t cell, py::handle wx, py::handle r, py::handle b, py::handle state) {
    Sequence in(cell);
    if (!in.read_gates(wx, r) || !in.read_bias(b)) return false;
    if (in.has_b && in.b.bits() != in.x.bits()) return false;
    in.sequences = in.B;
    return state.is_none() || (in.read_first(state, in.x.bits()) && in.first.size > 0);
}

// layer: None, or (w_ih, b_ih, heads); cut: the lengths, the bounds and the reset flags, each None if not given
py::object forward_tensors(int64_t cell, py::handle x, py::handle layer, py::handle r, py::handle b, py::handle first,
                           const py::tuple& cut, bool reverse, bool all_states, bool save) {
    Sequence in(cell);
    if (layer.is_none() ? !in.read_gates(x, r) || !in.read_bias(b)
                        : !in.read_layer(x, at(layer, 0), integer(at(layer, 2)), r) || !in.read_biases(at(layer, 1), b))
        return py::none();
    if (!in.read_cut(cut) || !in.read_first(first, in.x.bits())) return py::none();
    return with_storage(in.x.bits(), [&]<class S>() { return forward<S>(in, reverse, all_states, save); });
}

// layer: None, or (x, w_ih, heads, and whether x, w_ih and b_ih need gradients); cut: as in the forward pass
py::object backward_tensors(int64_t cell, py::handle layer, py::handle r, py::handle first, py::handle states,
                            py::handle saved, py::handle dstates, py::handle dlast, const py::tuple& cut, bool reverse,
                            const py::tuple& needs) {
    Saved in(cell);
    auto is_true = [](const py::handle& tuple, int i) { return at(tuple, i) == Py_True; };
    Needs need{is_true(needs, 0), is_true(needs, 1), is_true(needs, 2)};
    if (!in.read_states(states, saved)) return py::none();
    if (layer.is_none()) {
        if (!in.read_sizes(r)) return py::none();
    } else {
        if (!in.read_layer(at(layer, 0), at(layer, 1), integer(at(layer, 2)), r)) return py::none();
        need.x = is_true(layer, 3);
        need.w_ih = is_true(layer, 4);
        need.b_ih = is_true(layer, 5);
    }
    if (!in.read_cut(cut)) return py::none();
    if (!in.read_first(first, in.h().bits()) || !in.read_gradients(dstates, dlast)) return py::none();
    return with_storage(in.h().bits(), [&]<class S>() { return backward<S>(in, reverse, need); });
}

} // namespace

void bind_tensors(py::module_& m) {
    m.def("fits_tensors", rnn_fits);
    m.def("forward_tensors", forward_tensors);
    m.def("backward_tensors", backward_tensors);
}

} // namespace fastiter::rnn
