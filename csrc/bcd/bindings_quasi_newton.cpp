// The bindings of fastiter.bcd: quasi-Newton steps.
#include "bcd/quasi_newton.hpp"
#include "core/arguments.hpp"

namespace fastiter::bcd {
namespace {

// entries: (start, index, value, by_rows), start None for a dense matrix in column-major order; data: b, weight, (means
// of the columns, whether products subtract them); x: (m + 1, classes) with intercepts, otherwise (m, classes)
std::unique_ptr<QuasiNewton> quasi_newton(int bits, std::tuple<int64_t, int64_t, int64_t> shape,
                                          const py::tuple& entries, const py::tuple& data,
                                          std::pair<double, double> penalties, bool has_intercept, py::handle x) {
    const auto numbers = [](const py::tuple& t, size_t i) { return address<const double>(py::handle(t[i])); };
    Samples p;
    std::tie(p.n, p.m, p.classes) = shape;
    const auto means = data[2].cast<py::tuple>();
    p.b = numbers(data, 0), p.weight = numbers(data, 1), p.mean = numbers(means, 0),
    p.subtracts = means[1].cast<bool>();
    p.has_intercept = has_intercept, std::tie(p.l1, p.l2) = penalties;
    const auto start = address<const int64_t>(py::handle(entries[0]));
    const auto index = address<const int32_t>(py::handle(entries[1]));
    const bool by_rows = entries[3].cast<bool>();
    double* at = address<double>(x);
    return with_float(bits, [&]<class T>() {
        const auto value = address<const T>(py::handle(entries[2]));
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
    m.def("quasi_newton", quasi_newton, py::keep_alive<0, 3>(), py::keep_alive<0, 4>(), py::keep_alive<0, 7>());
}

} // namespace fastiter::bcd
