// fastiter._core: takes pointers and runs kernels without the GIL. python/fastiter/ has already checked all arguments.
#include "core/arguments.hpp"
#include "core/cpu/kernels.hpp"
#include "core/dispatch.hpp"
#include "core/launch.hpp"
#include "core/memory.hpp"
#include "core/stop.hpp"
#include "core/threads.hpp"
#include <cstdlib>
#include <string>

// The families: each defines its functions in a submodule of its name, in its bindings.cpp.
#define FASTITER_FAMILIES(F) \
    F(dense) F(rnn) F(scan) F(delta) F(newton) F(quant) F(relax) F(ssm) F(mdp) F(fixedpoint) F(bcd)

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

constexpr int64_t kLeast = 1 << 14; // elements that are worth waking a thread

// Calls run(first, count) for each thread's part of n elements.
template <class Run> void in_parts(int64_t n, Run run) {
    py::gil_scoped_release release;
    launch(
        [&](Team team) {
            const int64_t first = n * team.id / team.size;
            run(first, n * (team.id + 1) / team.size - first);
        },
        [&](int threads) { return threads_for(n, kLeast, threads); });
}

template <class T> void apply(int f, const T* x, T* out, int64_t n) {
    const auto kernel = elementwise().of<ElementwiseOf<T>>().function[f];
    in_parts(n, [&](int64_t first, int64_t count) { kernel(x + first, out + first, count); });
}

template <class T> void apply_gradient(int f, const T* saved, const T* dy, T* dx, int64_t n) {
    const auto kernel = elementwise().of<ElementwiseOf<T>>().gradient[f];
    in_parts(n, [&](int64_t first, int64_t count) { kernel(saved + first, dy + first, dx + first, count); });
}

template <class T> void apply_at(int f, py::handle x, py::handle out, int64_t n) {
    apply(f, address<const T>(x), address<T>(out), n);
}

template <class T> void apply_gradient_at(int f, py::handle saved, py::handle dy, py::handle dx, int64_t n) {
    apply_gradient(f, address<const T>(saved), address<const T>(dy), address<T>(dx), n);
}

// Reads a tensor of whose shape a result can be; false: it is no plain contiguous one of float32 or float64.
bool read_dense(Array& x, py::handle from) {
    return x.read(from.ptr()) && x.bits() != 16 && x.ndim() <= kMostAxes && x.is_contiguous();
}

// f of a plain tensor without checks in Python, which take longer than a small one; None for other tensors
py::object apply_to_tensor(int f, py::handle from) {
    Array x;
    if (!read_dense(x, from)) return py::none();
    py::object out = new_tensor(x);
    const Array y(out.ptr());
    with_float(x.bits(), [&]<class T>() { apply(f, x.data<const T>(), y.data<T>(), int64_t(x.bytes() / sizeof(T))); });
    return out;
}

py::object gradient_of_tensor(int f, py::handle from, py::handle along) {
    Array saved, dy;
    if (!read_dense(saved, from) || !read_dense(dy, along) || saved.bits() != dy.bits()) return py::none();
    py::object out = new_tensor(saved);
    const Array dx(out.ptr());
    with_float(saved.bits(), [&]<class T>() {
        apply_gradient(f, saved.data<const T>(), dy.data<const T>(), dx.data<T>(), int64_t(saved.bytes() / sizeof(T)));
    });
    return out;
}

template <class T> T read_stream(py::handle x, int64_t n) {
    const T* from = address<const T>(x);
    py::gil_scoped_release release;
    return elementwise().of<ElementwiseOf<T>>().read_stream(from, n);
}

template <class T> void define(py::module_& m, const std::string& suffix) {
    m.def(("function" + suffix).c_str(), function<T>);
    m.def(("apply" + suffix).c_str(), apply_at<T>);
    m.def(("apply_gradient" + suffix).c_str(), apply_gradient_at<T>);
    m.def(("read_stream" + suffix).c_str(), read_stream<T>);
}

} // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    const char* isa = std::getenv("FASTITER_ISA");
    if (const char* why = isa_choose(isa))
        throw py::import_error("fastiter: FASTITER_ISA must be one of '" + std::string(isa_available()) + "', got '" +
                               isa + "': " + why);
    if (!read_thread_environment())
        throw py::import_error("fastiter: FASTITER_NUM_THREADS must be a number from 1 to " +
                               std::to_string(kMaxThreads) + ", got '" + std::getenv("FASTITER_NUM_THREADS") + "'");
    answer_signals();
    m.attr("version") = FASTITER_VERSION;
    m.def("isa_chosen", isa_chosen);
    m.def("isa_built", isa_built);
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
    m.def("use_tensors", use_tensors);
#define FASTITER_BIND(family)                             \
    {                                                     \
        py::module_ submodule = m.def_submodule(#family); \
        family::bind(submodule);                          \
    }
    FASTITER_FAMILIES(FASTITER_BIND)
}
