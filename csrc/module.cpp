// fastiter._core: takes pointers and runs kernels without the GIL. python/fastiter/ has already checked all arguments.
#include "module.hpp"
#include "core/dispatch.hpp"
#include "core/memory.hpp"
#include "core/threads.hpp"
#include "rnn/run.hpp"
#include <cstdlib>
#include <string>

using namespace fastiter;

namespace {

// c (M, N) = a (M, K) b (K, N) + bias; a_m, a_k, b_k, b_n: strides; c contiguous. For bf16, bias is float.
template <class T>
void gemm(int64_t M, int64_t N, int64_t K, py::handle a, int64_t a_m, int64_t a_k, py::handle b, int64_t b_k,
          int64_t b_n, py::handle bias, py::handle c) {
    const Matrix<T> of_a{address<const T>(a), a_m, a_k}, of_b{address<const T>(b), b_k, b_n};
    const auto* added = address<const typename Gemm<T>::Sum>(bias);
    T* to = address<T>(c);
    py::gil_scoped_release release;
    run_product<T>(M, N, K, of_a, of_b, added, to);
}

template <class T> void column_sums(py::handle x, int64_t M, int64_t N, py::handle out) {
    const T* from = address<const T>(x);
    T* to = address<T>(out);
    py::gil_scoped_release release;
    run_column_sums(from, M, N, to);
}

template <class T> void function(int f, py::handle x, py::handle out, int64_t n) {
    kernels().of<T>().function[f](address<const T>(x), address<T>(out), n);
}

template <class T> T read_stream(py::handle x, int64_t n) {
    const T* from = address<const T>(x);
    py::gil_scoped_release release;
    return kernels().of<T>().read_stream(from, n);
}

// A block as a Python object with the buffer protocol; arrays and tensors that use its memory keep it alive.
class Buffer {
public:
    explicit Buffer(size_t bytes) : block_(take_block(bytes)), bytes_(bytes) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() { give_block(block_); }
    py::buffer_info info() const { return py::buffer_info(static_cast<uint8_t*>(block_.data), py::ssize_t(bytes_)); }

private:
    Block block_;
    size_t bytes_;
};

template <class T> void define_products(py::module_& m, const std::string& suffix) {
    m.def(("gemm" + suffix).c_str(), gemm<T>);
    m.def(("column_sums" + suffix).c_str(), column_sums<T>);
}

template <class T> void define(py::module_& m, const std::string& suffix) {
    define_products<T>(m, suffix);
    m.def(("function" + suffix).c_str(), function<T>);
    m.def(("read_stream" + suffix).c_str(), read_stream<T>);
}

} // namespace

PYBIND11_MODULE(_core, m) {
    const char* isa = std::getenv("FASTITER_ISA");
    if (const char* why = isa_choose(isa))
        throw py::import_error("fastiter: FASTITER_ISA must be one of '" + std::string(isa_available()) + "', got '" +
                               isa + "': " + why);
    if (!read_thread_environment())
        throw py::import_error("fastiter: FASTITER_NUM_THREADS must be a number from 1 to " +
                               std::to_string(kMaxThreads) + ", got '" + std::getenv("FASTITER_NUM_THREADS") + "'");
    m.attr("version") = FASTITER_VERSION;
    m.def("isa_chosen", isa_chosen);
    m.def("isa_built", isa_built);
    m.def("isa_available", isa_available);
    m.def("thread_count", thread_count);
    m.def("set_thread_count", set_thread_count);
    m.def("thread_pool", thread_pool);
    py::class_<Buffer>(m, "Buffer", py::buffer_protocol()).def(py::init<size_t>()).def_buffer(&Buffer::info);
    m.def("release_idle_blocks", release_idle_blocks);
    m.def("idle_bytes", idle_bytes);
    define<float>(m, "_f32");
    define<double>(m, "_f64");
    define_products<bf16>(m, "_bf16");
    define_quant(m);
    define_scan(m);
    define_tensor(m);
    define_layer(m);
    define_fixed(m);
    define_delta(m);
    define_newton(m);
    define_relax(m);
    define_relax_tuners(m);
    define_rnn(m);
    define_step(m);
}
