// The scans of fastiter._core.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "scan/cpu/kernels.hpp"

namespace fastiter::scan {
namespace {

// Lines of (B, T, numbers per step) or flags (B, T) or (T,); an axis of size 1 is broadcast. None is null.
template <class S> Lines<S> lines(PyObject* x, bool is_flags = false) {
    if (x == Py_None) return {};
    const Array array(x);
    const int64_t unit = array.is_complex() ? 2 : 1; // strides count real numbers
    auto stride = [&](int axis) { return array.size(axis) == 1 ? 0 : array.stride(axis) * unit; };
    if (is_flags && array.ndim() == 1) return {array.data<S>(), 0, array.stride(0)};
    return {array.data<S>(), stride(0), stride(1)};
}
template <class S> Lines<S> lines(py::handle x) { return lines<S>(x.ptr()); }

// (B, T, D, reverse, lengths, starts, reset); x: an array of the scan
ScanShape shape_of(const py::tuple& shape, const Array& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(shape.ptr(), i); };
    ScanShape s;
    s.B = integer(at(0));
    s.T = integer(at(1));
    s.D = integer(at(2));
    s.complex = x.is_complex();
    s.reverse = integer(at(3)) != 0;
    s.lengths = address<const int64_t>(at(4));
    s.starts = address<const int64_t>(at(5));
    s.reset = lines<const uint8_t>(at(6), true);
    return s;
}

// Runs a kernel without the GIL; per_number: operations per number and step
template <class Params> void launch_scan(void (*kernel)(const Params&, Team), Params& p, int64_t per_number) {
    constexpr int64_t kMinNumbers = 1 << 15;
    const ScanShape& s = p.shape;
    const int64_t numbers = (s.starts ? 1 : s.B) * s.T * s.D * (s.complex ? 2 : 1);
    py::gil_scoped_release release;
    launch(kernel, p, [&](int threads) { return threads_for(numbers * per_number, kMinNumbers, threads); });
}

// The same for a kernel that may need a workspace
template <class Kernels, class Params> void launch_gradient(const Kernels& kernels, Params& p, int64_t per_number) {
    const size_t bytes = kernels.gradient_workspace(p);
    if (bytes) p.workspace = workspace.of(bytes);
    launch_scan(kernels.gradient, p, per_number);
}

void linear_scan_fwd_twice(const py::tuple& shape, py::handle a, py::handle x, py::handle first, py::handle h,
                           py::handle last, py::handle copy) {
    const Array like(x.ptr());
    with_storage(like.real_bits(), [&]<class S>() {
        using T = accumulate_t<S>;
        LinearScan<S> p;
        p.shape = shape_of(shape, like);
        p.a = lines<const S>(a);
        p.x = lines<const S>(x);
        p.first = address<const T>(first);
        p.h = lines<S>(h);
        p.last = address<T>(last);
        p.copy = lines<S>(copy);
        launch_scan(kernels().of<LinearScanKernels<S>>().forward, p, 1);
    });
}

void linear_scan_fwd(const py::tuple& shape, py::handle a, py::handle x, py::handle first, py::handle h,
                     py::handle last) {
    linear_scan_fwd_twice(shape, a, x, first, h, last, py::none());
}

void linear_scan_bwd(const py::tuple& shape, py::handle a, py::handle h, py::handle dh, py::handle first,
                     py::handle dlast, py::handle dx, py::handle da, py::handle da_sum, py::handle dfirst) {
    const Array like(h.ptr());
    with_storage(like.real_bits(), [&]<class S>() {
        using T = accumulate_t<S>;
        LinearScanGradient<S> p;
        p.shape = shape_of(shape, like);
        p.a = lines<const S>(a);
        p.h = lines<const S>(h);
        p.dh = lines<const S>(dh);
        p.first = address<const T>(first);
        p.dlast = address<const T>(dlast);
        p.dx = lines<S>(dx);
        p.da = lines<S>(da);
        p.da_sum = lines<T>(da_sum);
        p.dfirst = address<T>(dfirst);
        launch_gradient(kernels().of<LinearScanKernels<S>>(), p, 2);
    });
}

void block_scan_fwd(const py::tuple& shape, int64_t K, py::handle A, py::handle x, py::handle first, py::handle h,
                    py::handle last) {
    const Array like(x.ptr());
    with_float(like.real_bits(), [&]<class T>() {
        BlockScan<T> p;
        p.shape = shape_of(shape, like);
        p.K = K;
        p.A = lines<const T>(A);
        p.x = lines<const T>(x);
        p.first = address<const T>(first);
        p.h = lines<T>(h);
        p.last = address<T>(last);
        launch_scan(kernels().of<BlockScanKernels<T>>().forward, p, K);
    });
}

void block_scan_bwd(const py::tuple& shape, int64_t K, py::handle A, py::handle h, py::handle dh, py::handle first,
                    py::handle dlast, py::handle dx, py::handle dA, py::handle dA_sum, py::handle dfirst) {
    const Array like(h.ptr());
    with_float(like.real_bits(), [&]<class T>() {
        BlockScanGradient<T> p;
        p.shape = shape_of(shape, like);
        p.K = K;
        p.A = lines<const T>(A);
        p.h = lines<const T>(h);
        p.dh = lines<const T>(dh);
        p.first = address<const T>(first);
        p.dlast = address<const T>(dlast);
        p.dx = lines<T>(dx);
        p.dA = lines<T>(dA);
        p.dA_sum = lines<T>(dA_sum);
        p.dfirst = address<T>(dfirst);
        launch_gradient(kernels().of<BlockScanKernels<T>>(), p, 2 * K);
    });
}

} // namespace

void bind(py::module_& m) {
    m.def("linear_forward", linear_scan_fwd);
    m.def("linear_forward_twice", linear_scan_fwd_twice);
    m.def("linear_backward", linear_scan_bwd);
    m.def("block_forward", block_scan_fwd);
    m.def("block_backward", block_scan_bwd);
}

} // namespace fastiter::scan
