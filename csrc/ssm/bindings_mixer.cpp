// One step of a whole mixer in fastiter._core.ssm: all of its products and updates in one call, on plain tensors.
#include "core/launch.hpp"
#include "ssm/arguments.hpp"
#include "ssm/cpu/conv/kernels.hpp"
#include "ssm/cpu/mixer/kernels.hpp"
#include <utility>

namespace fastiter::ssm {

namespace {

constexpr int64_t kMaxRows = 8; // with more rows, a product that packs the weights is faster

thread_local Block<> results; // intermediate results of a step

// A tensor of a layer, or none; every tensor must be dense, contiguous and not float64.
struct Weights {
    Array x;
    bool present = false;

    bool read(py::handle from, std::initializer_list<int64_t> shape, bool may_lack = false) {
        present = !from.is_none();
        if (!present) return may_lack;
        return x.read(from.ptr()) && x.bits() <= 32 && x.has_shape(shape) && x.is_contiguous();
    }
    const void* data() const { return present ? x.data<void>() : nullptr; }
    // (channel) as an operand of a step, or (head)
    Signal signal(bool of_heads = false) const {
        if (!present) return {};
        return {x.data<void>(), 0, of_heads ? 0 : 1, of_heads ? 1 : 0, storage_of(x)};
    }
};

// Arguments shared by all mixers: rows x (B, 1, I), the convolution (D, 1, W) and its state (B, D, W), the states, and
// the output (B, 1, I)
struct Mixer {
    Array x, conv_state, state;
    Weights in, in_bias, conv, conv_bias, out, out_bias;
    int64_t B = 0, I = 0;

    bool read_rows(py::handle from) {
        if (!x.read(from.ptr()) || x.ndim() != 3 || x.size(1) != 1 || x.bits() > 32 || x.is_empty()) return false;
        B = x.size(0);
        I = x.size(2);
        return B <= kMaxRows && x.is_contiguous();
    }
    // P: rows of the first product, D: channels of the convolution, Y: elements per row before the last product
    bool read_layers(const py::tuple& w, int64_t P, int64_t D, int64_t Y) {
        auto at = [&](int i) { return py::handle(PyTuple_GET_ITEM(w.ptr(), i)); };
        if (!in.read(at(0), {P, I}) || !in_bias.read(at(1), {P}, true)) return false;
        if (!conv.read(at(2), {D, 1, conv_state.size(2)}) || !conv_bias.read(at(3), {D}, true)) return false;
        if (!out.read(at(4), {I, Y}) || !out_bias.read(at(5), {I}, true)) return false;
        for (const Weights* y : {&in, &in_bias, &out, &out_bias})
            if (y->present && storage_of(y->x) != storage_of(x)) return false;
        return true;
    }
    bool read_states(py::handle of_conv, py::handle recurrent) {
        for (auto [to, from] : {std::pair{&conv_state, of_conv}, {&state, recurrent}})
            if (!to->read(from.ptr()) || to->bits() > 32 || !to->is_contiguous() || to->size(0) != B) return false;
        return conv_state.ndim() == 3 && state.ndim() >= 3;
    }
    Storage storage() const { return storage_of(x); }
    int64_t bytes() const { return x.bits() / 8; } // bytes per element
};

// Memory for several arrays of (B, count) elements
class Results {
public:
    explicit Results(const Mixer& m) : m_(m) {}
    // Reserves memory for rows of `count` elements; the first call of `data` allocates it.
    int64_t add(int64_t count, int64_t bytes) {
        const int64_t at = size_;
        size_ += (count * bytes + 63) / 64 * 64;
        return at;
    }
    int64_t rows(int64_t count) { return add(m_.B * count, m_.bytes()); }
    void* take() { return results.of(size_t(size_)); }

private:
    const Mixer& m_;
    int64_t size_ = 0;
};

void multiply(const Mixer& m, const Weights& w, const Weights& bias, const void* x, int64_t x_row, void* out) {
    RowsProduct p;
    p.B = m.B;
    p.N = w.x.size(0);
    p.K = w.x.size(1);
    p.storage = m.storage();
    p.x = x;
    p.x_row = x_row;
    p.w = w.data();
    p.bias = bias.data();
    p.out = out;
    p.out_row = p.N;
    constexpr int64_t kMinProducts = 1 << 18; // weights
    launch(mixer_kernels().product, p, [&](int threads) { return threads_for(p.N * p.K, kMinProducts, threads); });
}

// The convolution of D channels, with SiLU
void convolve(const Mixer& m, void* x, int64_t x_row, void* out) {
    const int64_t D = m.conv_state.size(1), N = m.conv_state.size(2);
    ConvUpdate<float> p;
    p.B = m.B;
    p.D = D;
    p.W = N;
    p.N = N;
    p.silu = true;
    p.x = {x, x_row, 1, 1, m.storage()};
    p.out = {out, D, 1, 1, m.storage()};
    p.state = {m.conv_state.data<void>(), D * N, N, 1, storage_of(m.conv_state)};
    p.weight = {m.conv.x.data<void>(), 0, N, 1, storage_of(m.conv.x)};
    p.bias = m.conv_bias.signal();
    const ConvKernels<float>& k = conv_kernels().of<ConvKernels<float>>();
    launch(k.update, p, [&](int) {
        p.workspace = workspace.of(k.update_workspace(p, 1));
        return 1;
    });
}

void advance(StateUpdate<float>& p) {
    const SelectiveKernels<float>& k = kernels().of<SelectiveKernels<float>>();
    launch(k.state_update, p, [&](int threads) {
        constexpr int64_t kMinProducts = 1 << 17; // states
        threads = threads_for(p.B * p.H * p.P * p.N, kMinProducts, threads);
        p.workspace = workspace.of(k.state_update_workspace(p, threads));
        return threads;
    });
}

void* after(void* from, int64_t count, const Mixer& m) { return static_cast<char*>(from) + count * m.bytes(); }

// layers: in_proj, its bias, conv, its bias, out_proj, its bias; weights: x_proj (R + 2 N, D), dt_proj (D, R), its bias
// (D), A_log (D, N), D (D). Returns the output, or None for tensors of other shapes, before anything is changed.
py::object mamba_step(py::handle x, const py::tuple& layers, const py::tuple& weights, py::handle conv_state,
                      py::handle state) {
    auto at = [&](int i) { return py::handle(PyTuple_GET_ITEM(weights.ptr(), i)); };
    Mixer m;
    Weights x_proj, dt_proj, dt_bias, A_log, skip;
    if (!m.read_rows(x) || !m.read_states(conv_state, state) || m.state.ndim() != 3) return py::none();
    const int64_t D = m.state.size(1), N = m.state.size(2);
    Array ranks;
    if (!ranks.read(at(1).ptr()) || ranks.ndim() != 2) return py::none();
    const int64_t R = ranks.size(1), all = R + 2 * N;
    if (m.conv_state.size(1) != D || !m.read_layers(layers, 2 * D, D, D)) return py::none();
    if (!x_proj.read(at(0), {all, D}) || !dt_proj.read(at(1), {D, R}) || !dt_bias.read(at(2), {D}, true) ||
        !A_log.read(at(3), {D, N}) || !skip.read(at(4), {D}))
        return py::none();
    for (const Weights* y : {&x_proj, &dt_proj})
        if (storage_of(y->x) != m.storage()) return py::none();
    Results parts(m);
    const int64_t to_xz = parts.rows(2 * D), to_u = parts.rows(D), to_projected = parts.rows(all),
                  to_dt = parts.rows(D), to_y = parts.rows(D), to_rates = parts.add(D * N, sizeof(float));
    py::object out = new_tensor(m.x, {m.B, 1, m.I});
    const Array result(out.ptr());
    py::gil_scoped_release release;
    char* memory = static_cast<char*>(parts.take());
    void *xz = memory + to_xz, *u = memory + to_u, *projected = memory + to_projected, *dt = memory + to_dt,
         *y = memory + to_y;
    float* A = reinterpret_cast<float*>(memory + to_rates);
    multiply(m, m.in, m.in_bias, m.x.data<void>(), m.I, xz);
    convolve(m, xz, 2 * D, u);
    multiply(m, x_proj, {}, u, D, projected);
    multiply(m, dt_proj, {}, projected, all, dt);
    mixer_kernels().rates(A_log.signal(), D * N, A);
    StateUpdate<float> p;
    const Storage s = m.storage();
    p.B = m.B;
    p.P = D;
    p.N = N;
    p.softplus = true;
    p.state = m.state.data<void>();
    p.state_storage = storage_of(m.state);
    p.state_row = D * N;
    p.state_channel = N;
    p.A = A;
    p.A_channel = N;
    p.x = {u, D, 1, 0, s};
    p.dt = {dt, D, 1, 0, s};
    p.z = {after(xz, D, m), 2 * D, 1, 0, s};
    p.out = {y, D, 1, 0, s};
    p.inputs = {after(projected, R, m), all, 1, 0, s};
    p.outputs = {after(projected, R + N, m), all, 1, 0, s};
    p.D = skip.signal();
    p.dt_bias = dt_bias.signal();
    advance(p);
    multiply(m, m.out, m.out_bias, y, D, result.data<void>());
    return out;
}

// layers as above; weights: dt_bias, A_log and D (H), weight of the norm (D); sizes: G groups, group size of the norm.
// The state is (B, H, P, N), D = H P, and the first product gives the gate, x, B, C and dt.
py::object mamba2_step(py::handle x, const py::tuple& layers, const py::tuple& weights, py::handle conv_state,
                       py::handle state, const py::tuple& sizes) {
    auto at = [&](int i) { return py::handle(PyTuple_GET_ITEM(weights.ptr(), i)); };
    const int64_t G = integer(PyTuple_GET_ITEM(sizes.ptr(), 0)), group = integer(PyTuple_GET_ITEM(sizes.ptr(), 1));
    const double eps = PyFloat_AsDouble(PyTuple_GET_ITEM(sizes.ptr(), 2));
    Mixer m;
    Weights dt_bias, A_log, skip, weight;
    if (!m.read_rows(x) || !m.read_states(conv_state, state) || m.state.ndim() != 4) return py::none();
    const int64_t H = m.state.size(1), P = m.state.size(2), N = m.state.size(3), D = H * P, C = D + 2 * G * N;
    const int64_t all = D + C + H;
    if (G < 1 || H % G != 0 || group < 1 || D % group != 0 || m.conv_state.size(1) != C) return py::none();
    if (!m.read_layers(layers, all, C, D) || !dt_bias.read(at(0), {H}) || !A_log.read(at(1), {H}) ||
        !skip.read(at(2), {H}) || !weight.read(at(3), {D}) || storage_of(weight.x) != m.storage())
        return py::none();
    Results parts(m);
    const int64_t to_all = parts.rows(all), to_u = parts.rows(C), to_y = parts.rows(D), to_normed = parts.rows(D),
                  to_rates = parts.add(H, sizeof(float)), to_norm = parts.add(D, sizeof(float));
    py::object out = new_tensor(m.x, {m.B, 1, m.I});
    const Array result(out.ptr());
    py::gil_scoped_release release;
    char* memory = static_cast<char*>(parts.take());
    void *projected = memory + to_all, *u = memory + to_u, *y = memory + to_y, *normed = memory + to_normed;
    float* A = reinterpret_cast<float*>(memory + to_rates);
    multiply(m, m.in, m.in_bias, m.x.data<void>(), m.I, projected);
    convolve(m, after(projected, D, m), all, u);
    mixer_kernels().rates(A_log.signal(), H, A);
    StateUpdate<float> p;
    const Storage s = m.storage();
    p.B = m.B;
    p.H = H;
    p.P = P;
    p.N = N;
    p.per_group = H / G;
    p.softplus = true;
    p.state = m.state.data<void>();
    p.state_storage = storage_of(m.state);
    p.state_row = D * N;
    p.state_head = P * N;
    p.state_channel = N;
    p.A = A;
    p.A_head = 1;
    p.A_channel = 0;
    p.A_state = 0;
    p.x = {u, C, 1, P, s};
    p.out = {y, D, 1, P, s};
    p.dt = {after(projected, D + C, m), all, 0, 1, s};
    p.inputs = {after(u, D, m), C, 1, N, s};
    p.outputs = {after(u, D + G * N, m), C, 1, N, s};
    p.D = skip.signal(true);
    p.dt_bias = dt_bias.signal(true);
    advance(p);
    GatedNorm n;
    n.B = m.B;
    n.D = D;
    n.group = group;
    n.eps = eps;
    n.storage = s;
    n.x = y;
    n.gate = projected;
    n.gate_row = all;
    n.weight = weight.data();
    n.out = normed;
    n.workspace = reinterpret_cast<float*>(memory + to_norm);
    mixer_kernels().norm(n);
    multiply(m, m.out, m.out_bias, normed, D, result.data<void>());
    return out;
}

} // namespace

void bind_mixer(py::module_& m) {
    m.def("mamba_step", mamba_step);
    m.def("mamba2_step", mamba2_step);
}

} // namespace fastiter::ssm
