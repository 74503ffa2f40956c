// The scans of fastiter._core.
#include "core/arguments.hpp"
#include "scan/run.hpp"
#include <string>

namespace fastiter::scan {
namespace {

// (address, row, time), strides in elements; () or 0: none
template <class S> Lines<S> lines(const py::handle& x) {
    if (!PyTuple_Check(x.ptr()) || PyTuple_GET_SIZE(x.ptr()) == 0) return {};
    return {address<S>(PyTuple_GET_ITEM(x.ptr(), 0)), integer(PyTuple_GET_ITEM(x.ptr(), 1)),
            integer(PyTuple_GET_ITEM(x.ptr(), 2))};
}

// (B, T, D, complex, reverse, lengths, starts, reset)
ScanShape shape_of(const py::tuple& x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x.ptr(), i); };
    ScanShape s;
    s.B = integer(at(0)), s.T = integer(at(1)), s.D = integer(at(2));
    s.complex = integer(at(3)) != 0, s.reverse = integer(at(4)) != 0;
    s.lengths = address<const int64_t>(at(5));
    s.starts = address<const int64_t>(at(6));
    s.reset = lines<const uint8_t>(at(7));
    return s;
}

template <class S, class T>
void linear_scan_fwd(const py::tuple& shape, py::handle a, py::handle x, py::handle first, py::handle h,
                     py::handle last) {
    LinearScan<S, T> p;
    p.shape = shape_of(shape);
    p.a = lines<const S>(a), p.x = lines<const S>(x);
    p.first = address<const T>(first);
    p.h = lines<S>(h);
    p.last = address<T>(last);
    py::gil_scoped_release release;
    run_linear_scan(p);
}

template <class S, class T>
void linear_scan_bwd(const py::tuple& shape, py::handle a, py::handle h, py::handle dh, py::handle first,
                     py::handle dlast, py::handle dx, py::handle da, py::handle da_sum, py::handle dfirst) {
    LinearScanGradient<S, T> p;
    p.shape = shape_of(shape);
    p.a = lines<const S>(a), p.h = lines<const S>(h), p.dh = lines<const S>(dh);
    p.first = address<const T>(first);
    p.dlast = address<const T>(dlast);
    p.dx = lines<S>(dx), p.da = lines<S>(da);
    p.da_sum = lines<T>(da_sum);
    p.dfirst = address<T>(dfirst);
    py::gil_scoped_release release;
    run_linear_scan_gradient(p);
}

template <class T>
void block_scan_fwd(const py::tuple& shape, int64_t K, py::handle A, py::handle x, py::handle first, py::handle h,
                    py::handle last) {
    BlockScan<T> p;
    p.shape = shape_of(shape);
    p.K = K;
    p.A = lines<const T>(A), p.x = lines<const T>(x);
    p.first = address<const T>(first);
    p.h = lines<T>(h);
    p.last = address<T>(last);
    py::gil_scoped_release release;
    run_block_scan(p);
}

template <class T>
void block_scan_bwd(const py::tuple& shape, int64_t K, py::handle A, py::handle h, py::handle dh, py::handle first,
                    py::handle dlast, py::handle dx, py::handle dA, py::handle dA_sum, py::handle dfirst) {
    BlockScanGradient<T> p;
    p.shape = shape_of(shape);
    p.K = K;
    p.A = lines<const T>(A), p.h = lines<const T>(h), p.dh = lines<const T>(dh);
    p.first = address<const T>(first);
    p.dlast = address<const T>(dlast);
    p.dx = lines<T>(dx), p.dA = lines<T>(dA), p.dA_sum = lines<T>(dA_sum);
    p.dfirst = address<T>(dfirst);
    py::gil_scoped_release release;
    run_block_scan_gradient(p);
}

template <class T> void define_block(py::module_& m, const std::string& suffix) {
    m.def(("block_scan_fwd" + suffix).c_str(), block_scan_fwd<T>);
    m.def(("block_scan_bwd" + suffix).c_str(), block_scan_bwd<T>);
}

template <class S, class T> void define(py::module_& m, const std::string& suffix) {
    m.def(("linear_scan_fwd" + suffix).c_str(), linear_scan_fwd<S, T>);
    m.def(("linear_scan_bwd" + suffix).c_str(), linear_scan_bwd<S, T>);
}

} // namespace

void bind(py::module_& m) {
    define<float, float>(m, "_f32");
    define<double, double>(m, "_f64");
    define<bf16, float>(m, "_bf16");
    define_block<float>(m, "_f32");
    define_block<double>(m, "_f64");
}

} // namespace fastiter::scan
