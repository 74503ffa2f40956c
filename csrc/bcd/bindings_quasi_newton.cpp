// The bindings of fastiter.bcd: quasi-Newton steps.
#include "bcd/fields.hpp"
#include "bcd/quasi_newton/quasi_newton.hpp"

namespace fastiter::bcd {
namespace {

// The fields are those of NamedTuples in _data.py and _quasi_newton.py. starts is None for a dense matrix in column-major
// order; x: (m + 1, classes) with intercepts, otherwise (m, classes).
std::unique_ptr<QuasiNewton> quasi_newton(int bits, const py::object& entries, bool by_rows, const py::object& samples,
                                          py::handle x) {
    Samples p;
    p.n = samples.attr("n").cast<int64_t>();
    p.m = samples.attr("m").cast<int64_t>();
    p.classes = samples.attr("classes").cast<int64_t>();
    p.has_intercept = samples.attr("has_intercept").cast<bool>();
    p.b = field<double>(samples, "labels");
    p.weight = field<double>(samples, "weights");
    p.mean = field<double>(samples, "means");
    p.subtracts = samples.attr("subtracts").cast<bool>();
    p.l1 = samples.attr("l1").cast<double>();
    p.l2 = samples.attr("l2").cast<double>();
    const auto start = field<int64_t>(entries, "starts");
    const auto index = field<int32_t>(entries, "indices");
    double* at = address<double>(x);
    return with_float(bits, [&]<class T>() {
        const auto value = field<T>(entries, "values");
        py::gil_scoped_release release;
        return std::make_unique<QuasiNewton>(
            factor_of(Product<T>{p.n, p.m, p.classes, start, index, value, by_rows, nullptr, nullptr, nullptr}), p, at);
    });
}

} // namespace

void bind_quasi_newton(py::module_& m) {
    py::class_<QuasiNewton>(m, "QuasiNewton")
        .def("run", &QuasiNewton::run, py::call_guard<py::gil_scoped_release>())
        .def("objective", &QuasiNewton::objective)
        .def("residual", &QuasiNewton::residual);
    m.def("quasi_newton", quasi_newton, py::keep_alive<0, 2>(), py::keep_alive<0, 4>(), py::keep_alive<0, 5>());
}

} // namespace fastiter::bcd
