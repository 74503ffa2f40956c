// The matrix product and the sums of columns of fastiter._core.
#include "core/arguments.hpp"
#include "dense/run.hpp"
#include <algorithm>
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

// A plain contiguous tensor as lines of its last axis
struct Lines {
    Array x;
    bool is_read;
    explicit Lines(py::handle from) : is_read(x.read(from.ptr()) && x.ndim() <= kMaxAxes && x.is_contiguous()) {}
    int64_t width() const { return x.size(-1); }
    int64_t rows() const {
        int64_t count = 1;
        for (int axis = 0; axis < x.ndim() - 1; ++axis) count *= x.size(axis);
        return count;
    }
};

// Whether all are read and of one dtype
bool are_alike(std::initializer_list<const Lines*> all) {
    const int bits = (*all.begin())->x.bits();
    return std::all_of(all.begin(), all.end(), [&](const Lines* l) { return l->is_read && l->x.bits() == bits; });
}

// x W^T + bias in a new tensor, for x (..., K), W (N, K) and bias (N) or None. None: one of them is not plain or not
// contiguous, or bias is not in the dtype of the sums, and needs Python, which takes longer than a small product.
py::object product_of_tensors(py::handle of_x, py::handle of_w, py::handle of_bias) {
    const Lines x(of_x), w(of_w);
    if (!are_alike({&x, &w})) return py::none();
    Array bias;
    const bool has_bias = !of_bias.is_none();
    const int bits = x.x.bits(), sums = bits == 16 ? 32 : bits;
    if (has_bias && (!bias.read(of_bias.ptr()) || bias.bits() != sums || !bias.is_contiguous())) return py::none();
    const int64_t M = x.rows(), K = x.width(), N = w.rows();
    py::object result = new_tensor_of_width(x.x, N);
    const Array y(result.ptr());
    with_storage(bits, [&]<class T>() {
        const auto* added = has_bias ? bias.data<const accumulate_t<T>>() : nullptr;
        const Matrix<T> lines{x.x.data<const T>(), K, 1}, columns{w.x.data<const T>(), 1, K};
        T* to = y.data<T>();
        py::gil_scoped_release release;
        run_product<T>(M, N, K, lines, columns, added, to);
    });
    return result;
}

// The gradients of x, W and bias, those that are needed, from dy; None as above
py::object gradients_of_tensors(py::handle of_dy, py::handle of_x, py::handle of_w, bool need_x, bool need_w,
                                bool need_bias) {
    const Lines dy(of_dy), x(of_x), w(of_w);
    if (!are_alike({&x, &w, &dy})) return py::none();
    const int64_t M = x.rows(), K = x.width(), N = w.rows();
    py::list result;
    with_storage(x.x.bits(), [&]<class T>() {
        const T *from = x.x.data<const T>(), *by = w.x.data<const T>(), *along = dy.x.data<const T>();
        const auto next = [&](py::object tensor) {
            result.append(tensor);
            return Array(tensor.ptr()).data<T>();
        };
        T* dx = need_x ? next(new_tensor(x.x)) : nullptr;
        T* dw = need_w ? next(new_tensor(w.x)) : nullptr;
        T* db = need_bias ? next(new_tensor(w.x, {N})) : nullptr;
        py::gil_scoped_release release;
        if (dx) run_product<T>(M, K, N, {along, N, 1}, {by, K, 1}, nullptr, dx);
        if (dw) run_product<T>(N, K, M, {along, 1, N}, {from, K, 1}, nullptr, dw);
        if (db) run_column_sums(along, M, N, db);
    });
    return result;
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
    m.def("product_of_tensors", product_of_tensors);
    m.def("gradients_of_tensors", gradients_of_tensors);
}

} // namespace fastiter::dense
