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

template <class T> void apply(int f, py::handle x, py::handle out, int64_t n) {
    const T* from = address<const T>(x);
    T* to = address<T>(out);
    const auto kernel = elementwise().of<ElementwiseOf<T>>().function[f];
    in_parts(n, [&](int64_t first, int64_t count) { kernel(from + first, to + first, count); });
}

template <class T> void apply_gradient(int f, py::handle saved, py::handle dy, py::handle dx, int64_t n) {
    const T *from = address<const T>(saved), *by = address<const T>(dy);
    T* to = address<T>(dx);
    const auto kernel = elementwise().of<ElementwiseOf<T>>().gradient[f];
    in_parts(n, [&](int64_t first, int64_t count) { kernel(from + first, by + first, to + first, count); });
}

template <class T> T read_stream(py::handle x, int64_t n) {
    const T* from = address<const T>(x);
    py::gil_scoped_release release;
    return elementwise().of<ElementwiseOf<T>>().read_stream(from, n);
}

template <class T> void define(py::module_& m, const std::string& suffix) {
    m.def(("function" + suffix).c_str(), function<T>);
    m.def(("apply" + suffix).c_str(), apply<T>);
    m.def(("apply_gradient" + suffix).c_str(), apply_gradient<T>);
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
    m.def("use_tensors", use_tensors);
#define FASTITER_BIND(family)                             \
    {                                                     \
        py::module_ submodule = m.def_submodule(#family); \
        family::bind(submodule);                          \
    }
    FASTITER_FAMILIES(FASTITER_BIND)
}
