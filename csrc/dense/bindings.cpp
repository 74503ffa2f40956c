// The matrix product and the sums of columns of fastiter._core.
#include "core/arguments.hpp"
#include "dense/run.hpp"
#include <string>

namespace fastiter::dense {
namespace {

// c (M, N) = a (M, K) b (K, N) + bias; a_m, a_k, b_k, b_n: strides; c contiguous. For bf16, bias is float.
template <class T>
void gemm(int64_t M, int64_t N, int64_t K, py::handle a, int64_t a_m, int64_t a_k, py::handle b, int64_t b_k,
          int64_t b_n, py::handle bias, py::handle c) {
    const Matrix<T> of_a{address<const T>(a), a_m, a_k}, of_b{address<const T>(b), b_k, b_n};
    const auto* added = address<const accumulate_t<T>>(bias);
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

template <class T> void define_products(py::module_& m, const std::string& suffix) {
    m.def(("gemm" + suffix).c_str(), gemm<T>);
    m.def(("column_sums" + suffix).c_str(), column_sums<T>);
}

} // namespace

void bind(py::module_& m) {
    define_products<float>(m, "_f32");
    define_products<double>(m, "_f64");
    define_products<bf16>(m, "_bf16");
}

} // namespace fastiter::dense
