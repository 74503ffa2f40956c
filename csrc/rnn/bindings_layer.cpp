// A torch.nn layer on dense tensors, input projection and recurrence in one call: the same as python/fastiter/rnn/_torch/nn/layer.py in
// python/fastiter/torch/nn does op by op, where a small layer spends most of its time between the ops. Handles only
// plain arguments; for all others it returns None, and the op-by-op path runs.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "dense/run.hpp"
#include "rnn/views.hpp"

namespace fastiter::rnn {

using dense::run_column_sums, dense::run_product;

namespace {

// x (T, B, I), w_ih (G * H, I), w_hh (G * H, D), both biases (G * H,) or neither, the initial states (B, N, D) or none:
// contiguous, and of one dtype, except that states beside a bfloat16 h are float32. H = N D
struct LayerInputs {
    CellOf cell;
    int64_t N;
    Array x, w_ih, w_hh, b_ih, b_hh;
    Views first;
    bool has_bias = false;

    LayerInputs(const py::tuple& cell_of, int64_t heads) : cell(cell_of), N(heads) {}

    int64_t T() const { return x.size(0); }
    int64_t B() const { return x.size(1); }
    int64_t I() const { return x.size(2); }
    int64_t D() const { return w_hh.size(1); }
    int64_t H() const { return N * D(); }
    int64_t gates() const { return cell.gates * H(); }
    bool is_gru() const { return shape(false).cell == Cell::gru; }
    RnnShape shape(bool reverse) const { return cell.shape_of(B(), T(), N, D(), reverse); }

    bool read_weights(py::handle x_, py::handle w_ih_, py::handle w_hh_, py::handle first_) {
        if (!x.read(x_.ptr()) || x.ndim() != 3 || x.is_empty()) return false;
        if (!w_hh.read(w_hh_.ptr()) || w_hh.ndim() != 2 || !is_plain(w_hh, {gates(), D()})) return false;
        if (!w_ih.read(w_ih_.ptr()) || !is_plain(w_ih, {gates(), I()}) || !x.is_contiguous()) return false;
        if (!first.read(first_.ptr(), cell.states) || !first.is_whole_or_none(cell.states)) return false;
        return first.all(x.bits(), [&](const Array& s) { return s.has_shape({B(), N, D()}) && s.is_contiguous(); });
    }

    bool read_biases(py::handle b_ih_, py::handle b_hh_) {
        has_bias = !b_ih_.is_none();
        if (has_bias == b_hh_.is_none()) return false;
        return !has_bias || (b_ih.read(b_ih_.ptr()) && b_hh.read(b_hh_.ptr()) && is_plain(b_ih, {gates()}) &&
                             is_plain(b_hh, {gates()}));
    }

    bool is_plain(const Array& v, std::initializer_list<int64_t> shape) const {
        return v.bits() == x.bits() && v.has_shape(shape) && v.is_contiguous();
    }
};

// Views data (T, B, H) or (T, B, G * H) of a layer as (B, T, N, D) or (B, T, G, N, D).
template <class P> Steps<P> lines_of(P* data, const LayerInputs& in, int64_t gates) {
    const int64_t line = gates * in.H();
    return {data, line, in.B() * line, in.H(), in.D()};
}

// If both biases are added to the same sums, they are combined into one array. The GRU's b_n is not, as it is inside r
// (R_n h + b_n).
template <class S> struct Biases {
    typedef accumulate_t<S> T;
    std::vector<T> of_x, of_h;

    explicit Biases(const LayerInputs& in) {
        if (!in.has_bias) return;
        of_h = numbers_of<S>(in.b_hh, in.gates());
        of_x = numbers_of<S>(in.b_ih, in.gates());
        if (in.is_gru()) return;
        for (size_t i = 0; i < of_h.size(); ++i) of_h[i] += of_x[i];
        of_x.clear();
    }
    static const T* array(const std::vector<T>& b) { return b.empty() ? nullptr : b.data(); }
};

// Returns h (T, B, H), the final states (1, B, H) each, and with `save` the inputs of the backward pass: all states and
// the gates.
template <class S> py::object forward(const LayerInputs& in, bool reverse, bool save) {
    const int64_t B = in.B(), steps = in.T(), N = in.N, D = in.D(), G = in.cell.gates;
    const Biases<S> b(in);
    Block<S> space;
    RnnForward<S> p;
    p.shape = in.shape(reverse);
    const bool in_tiles = kernels<S>().multiplies_x(p.shape, in.I());
    if (!in_tiles) space = Block<S>(steps * B * in.gates());
    S* const wx = space.data();
    if (in_tiles)
        p.x = {in.x.data<const S>(), in.I(), B * in.I(), in.I(), in.w_ih.data<const S>(), b.array(b.of_x)};
    else
        p.wx = lines_of<const S>(wx, in, G);
    point(p.r, in.w_hh);
    p.b = b.array(b.of_h);
    in.first.point_at(p.first);
    Outputs out{in.x};
    OwnCopies own;
    const Array h = out.add({steps, B, in.H()});
    p.states.h = lines_of(h.data<S>(), in, 1);
    for (int i = 0; i < in.cell.states; ++i) out.add_state(p.last, i, {1, B, in.H()});
    if (save) own.add(h, out.add({steps, B, in.H()}));
    for (int i = 1; i < in.cell.states && save; ++i) out.add_kept_state(p.states, i, {B, steps, N, D});
    if (save && in.cell.saved) point(p.saved, out.add_kept_gates({B, steps, in.cell.saved, N, D}));
    {
        py::gil_scoped_release release;
        if (wx)
            run_product<S>(steps * B, in.gates(), in.I(), {in.x.data<const S>(), in.I(), 1},
                           {in.w_ih.data<const S>(), 1, in.I()}, b.array(b.of_x), wx);
        run_forward(p);
        own.run();
    }
    return std::move(out.all);
}

py::object layer_fwd(const py::tuple& cell, py::handle x, py::handle w_ih, py::handle w_hh, py::handle b_ih,
                     py::handle b_hh, py::handle first, int64_t heads, bool reverse, bool save) {
    LayerInputs in(cell, heads);
    if (!in.read_weights(x, w_ih, w_hh, first) || !in.read_biases(b_ih, b_hh)) return py::none();
    return with_storage(in.x.bits(), [&]<class S>() { return forward<S>(in, reverse, save); });
}

// The results and saved tensors of the forward pass, and the incoming gradients
struct LayerKept : LayerInputs {
    Array h, saved, dh;
    Views others, dlast;
    bool has_saved = false, has_dh = false;
    using LayerInputs::LayerInputs;

    bool read_kept(py::handle h_, const py::list& kept, py::handle dh_, py::handle dlast_) {
        const int count = cell.states - 1;
        has_saved = cell.saved > 0;
        if (int(kept.size()) != count + has_saved) return false;
        const auto has_lines = [&](const Array& v, int64_t axes) {
            return v.bits() == computed_bits(x.bits()) && v.ndim() == axes && v.has_unit_stride();
        };
        if (has_saved && (!saved.read(kept[size_t(count)].ptr()) || !has_lines(saved, 5))) return false;
        const py::list states = kept[py::slice(0, count, 1)];
        if (!others.read(states.ptr(), count) || !others.is_whole(count)) return false;
        for (int i = 0; i < count; ++i)
            if (!has_lines(others.view[i], 4)) return false;
        if (!h.read(h_.ptr()) || !is_plain(h, {T(), B(), H()})) return false;
        has_dh = !dh_.is_none();
        if (has_dh &&
            (!dh.read(dh_.ptr()) || dh.bits() != x.bits() || !dh.has_shape({T(), B(), H()}) || !dh.has_unit_stride()))
            return false;
        return dlast.read(dlast_.ptr(), cell.states) &&
               dlast.all(x.bits(), [&](const Array& d) { return d.has_shape({1, B(), H()}) && d.is_contiguous(); });
    }
};

// The requested gradients; the biases share one gradient if they are added to the same sums.
struct Needs {
    bool x, w_ih, w_hh, b_ih, b_hh, first;
};

// Sets all inputs of the kernel.
template <class S> RnnBackward<S> read_by_kernel(const LayerKept& in, bool reverse) {
    RnnBackward<S> p;
    p.shape = in.shape(reverse);
    point(p.r, in.w_hh);
    in.first.point_at(p.first);
    if (in.has_saved) point(p.saved, in.saved);
    p.states.h = lines_of(in.h.data<const S>(), in, 1);
    for (int i = 0; i + 1 < in.cell.states; ++i) point(p.states.others[i], in.others.view[i]);
    if (in.has_dh) p.dstates.h = {in.dh.data<const S>(), in.dh.stride(1), in.dh.stride(0), 0, in.D()};
    in.dlast.point_at(p.dlast);
    return p;
}

// Computes the requested gradients: dx, dw_ih, dw_hh, db_hh, db_ih (if distinct) and the initial states' (B, N, D).
template <class S> py::object backward(const LayerKept& in, bool reverse, const Needs& need) {
    const int64_t outputs = in.gates(), inputs = in.I(), lines = in.T() * in.B();
    const bool has_two = in.is_gru();
    RnnBackward<S> p = read_by_kernel<S>(in, reverse);
    const Block<S> space(lines * outputs);
    S* const dwx = space.data();
    p.dwx = lines_of(dwx, in, in.cell.gates);
    Outputs out{in.x};
    S *dx = nullptr, *dw_ih = nullptr, *dr = nullptr, *db_ih = nullptr;
    if (need.x) point(dx, out.add({in.T(), in.B(), inputs}));
    if (need.w_ih) point(dw_ih, out.add({outputs, inputs}));
    if (need.w_hh) point(dr, out.add({outputs, in.D()}));
    if (need.b_hh || (need.b_ih && !has_two)) point(p.db, out.add({outputs}));
    if (need.b_ih && has_two) point(db_ih, out.add({outputs}));
    for (int i = 0; need.first && i < in.cell.states; ++i) out.add_state(p.dfirst, i, {in.B(), in.N, in.D()});
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

py::object layer_bwd(const py::tuple& cell, py::handle x, py::handle w_ih, py::handle w_hh, py::handle first,
                     py::handle h, const py::list& kept, py::handle dh, py::handle dlast, int64_t heads, bool reverse,
                     const py::tuple& needs) {
    LayerKept in(cell, heads);
    if (!in.read_weights(x, w_ih, w_hh, first) || !in.read_kept(h, kept, dh, dlast)) return py::none();
    auto need = [&](int i) { return PyTuple_GET_ITEM(needs.ptr(), i) == Py_True; };
    const Needs wanted{need(0), need(1), need(2), need(3), need(4), need(5)};
    return with_storage(in.x.bits(), [&]<class S>() { return backward<S>(in, reverse, wanted); });
}

} // namespace

void bind_layer(py::module_& m) {
    m.def("layer_forward_tensors", layer_fwd);
    m.def("layer_backward_tensors", layer_bwd);
}

} // namespace fastiter::rnn
