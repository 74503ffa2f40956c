// fastiter._core: takes pointers and runs kernels without the GIL. python/fastiter/ has already checked all arguments.
#include "core/arguments.hpp"
#include "core/cpu/kernels.hpp"
#include "core/dispatch.hpp"
#include "core/launch.hpp"
#include "core/memory.hpp"
#include "core/threads/stop.hpp"
#include "core/threads/threads.hpp"
#include <cstdlib>
#include <string>

// The families: each defines its functions in a submodule of its name, in its bindings.cpp.
#define FASTITER_FAMILIES(F) \
    F(dense) F(rnn) F(scan) F(delta) F(newton) F(quant) F(relax) F(ssm) F(mdp) F(fixedpoint) F(bcd) F(decode)

#define FASTITER_DECLARE_BIND(family) \
    namespace fastiter::family {      \
    void bind(py::module_& m);        \
    }
FASTITER_FAMILIES(FASTITER_DECLARE_BIND)

using namespace fastiter;

namespace {

template <class T> void function(int f, py::handle x, py::handle out, int64_t n) {
    elementwise().of<ElementwiseOf<T>>().function[f](address<const T>(x), address<T>(out), n);
}

constexpr int64_t kMinElements = 1 << 14; // elements that are worth waking a thread

// Calls run(first, count) for each thread's part of n elements.
template <class Run> void in_parts(int64_t n, Run run) {
    py::gil_scoped_release release;
    launch(
        [&](Team team) {
            const int64_t first = n * team.id / team.size;
            run(first, n * (team.id + 1) / team.size - first);
        },
        [&](int threads) { return threads_for(n, kMinElements, threads); });
}

template <class T> void apply(int f, const T* x, T* out, int64_t n) {
    const auto kernel = elementwise().of<ElementwiseOf<T>>().function[f];
    in_parts(n, [&](int64_t first, int64_t count) { kernel(x + first, out + first, count); });
}

template <class T> void apply_gradient(int f, const T* saved, const T* dy, T* dx, int64_t n) {
    const auto kernel = elementwise().of<ElementwiseOf<T>>().gradient[f];
    in_parts(n, [&](int64_t first, int64_t count) { kernel(saved + first, dy + first, dx + first, count); });
}

template <class T> void gate(const T* y, const T* z, T* out, int64_t n) {
    const auto kernel = elementwise().of<ElementwiseOf<T>>().gate;
    in_parts(n, [&](int64_t first, int64_t count) { kernel(y + first, z + first, out + first, count); });
}

template <class T> void gate_gradient(const T* y, const T* z, const T* d, T* dy, T* dz, int64_t n) {
    const auto kernel = elementwise().of<ElementwiseOf<T>>().gate_gradient;
    in_parts(n, [&](int64_t i, int64_t count) { kernel(y + i, z + i, d + i, dy + i, dz + i, count); });
}

// A tensor whose elements can be visited in memory order, with a result of its shape. None: it is not plain, not
// contiguous, or of other numbers than float32 and float64, and needs Python, which takes longer than a small call.
class Dense {
public:
    explicit Dense(py::handle x)
        : is_read_(x_.read(x.ptr()) && x_.bits() != 16 && x_.ndim() <= kMaxAxes && x_.is_contiguous()) {}
    explicit operator bool() const { return is_read_; }
    bool goes_with(const Dense& other) const { return is_read_ && other.x_.bits() == x_.bits(); }
    py::object result() const { return new_tensor(x_); }
    int bits() const { return x_.bits(); }
    template <class T> T* data() const { return x_.data<T>(); }
    template <class T> int64_t count() const { return int64_t(x_.bytes() / sizeof(T)); }

private:
    Array x_;
    bool is_read_;
};

py::object apply_to_tensor(int f, py::handle from) {
    const Dense x(from);
    if (!x) return py::none();
    py::object out = x.result();
    const Dense y(out);
    with_float(x.bits(), [&]<class T>() { apply(f, x.data<const T>(), y.data<T>(), x.count<T>()); });
    return out;
}

py::object gradient_of_tensor(int f, py::handle from, py::handle along) {
    const Dense saved(from), dy(along);
    if (!saved || !dy.goes_with(saved)) return py::none();
    py::object out = saved.result();
    const Dense dx(out);
    with_float(saved.bits(), [&]<class T>() {
        apply_gradient(f, saved.data<const T>(), dy.data<const T>(), dx.data<T>(), saved.count<T>());
    });
    return out;
}

py::object gate_tensors(py::handle of_y, py::handle of_z) {
    const Dense y(of_y), z(of_z);
    if (!y || !z.goes_with(y)) return py::none();
    py::object output = y.result();
    const Dense out(output);
    with_float(y.bits(), [&]<class T>() { gate(y.data<const T>(), z.data<const T>(), out.data<T>(), y.count<T>()); });
    return output;
}

py::object gate_gradient_of_tensors(py::handle of_y, py::handle of_z, py::handle along) {
    const Dense y(of_y), z(of_z), d(along);
    if (!y || !z.goes_with(y) || !d.goes_with(y)) return py::none();
    py::object of_dy = y.result(), of_dz = y.result();
    const Dense dy(of_dy), dz(of_dz);
    with_float(y.bits(), [&]<class T>() {
        const T *from = y.data<const T>(), *by = z.data<const T>(), *g = d.data<const T>();
        gate_gradient(from, by, g, dy.data<T>(), dz.data<T>(), y.count<T>());
    });
    return py::make_tuple(of_dy, of_dz);
}

template <class T> T read_stream(py::handle x, int64_t n) {
    const T* from = address<const T>(x);
    py::gil_scoped_release release;
    return elementwise().of<ElementwiseOf<T>>().read_stream(from, n);
}

template <class T> void define(py::module_& m, const std::string& suffix) {
    m.def(("function" + suffix).c_str(), function<T>);
    m.def(("read_stream" + suffix).c_str(), read_stream<T>);
}

} // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    if (const std::string wrong = isa_choose(std::getenv("FASTITER_ISA")); !wrong.empty())
        throw py::import_error("fastiter: " + wrong);
    if (!read_thread_environment())
        throw py::import_error("fastiter: FASTITER_NUM_THREADS must be a number from 1 to " +
                               std::to_string(kMaxThreads) + ", got '" + std::getenv("FASTITER_NUM_THREADS") + "'");
    answer_signals();
    m.attr("version") = FASTITER_VERSION;
    m.def("isa_chosen", isa_chosen);
    m.def("isa_built", isa_built);
    m.def("fuses_multiply_add", fuses_multiply_add);
    m.def("isa_available", isa_available);
    m.def("thread_count", thread_count);
    m.def("set_thread_count", set_thread_count);
    m.def("thread_pool", thread_pool);
    // Arrays and tensors that use a block's memory keep it alive.
    py::class_<Block<>>(m, "Buffer", py::buffer_protocol()).def(py::init<int64_t>()).def_buffer([](Block<>& block) {
        return py::buffer_info(reinterpret_cast<uint8_t*>(block.data()), block.size());
    });
    m.def("release_idle_blocks", release_idle_blocks);
    m.def("idle_bytes", idle_bytes);
    define<float>(m, "_f32");
    define<double>(m, "_f64");
    m.def("apply_to_tensor", apply_to_tensor);
    m.def("gradient_of_tensor", gradient_of_tensor);
    m.def("gate_tensors", gate_tensors);
    m.def("gate_gradient_of_tensors", gate_gradient_of_tensors);
    m.def("use_tensors", use_tensors);
    m.def("are_ordinary", are_ordinary);
#define FASTITER_BIND(family)                             \
    {                                                     \
        py::module_ submodule = m.def_submodule(#family); \
        family::bind(submodule);                          \
    }
    FASTITER_FAMILIES(FASTITER_BIND)
}
