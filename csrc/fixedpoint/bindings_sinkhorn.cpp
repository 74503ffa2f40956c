// The bindings of the Sinkhorn iteration.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "fixedpoint/cpu/sinkhorn.hpp"

namespace fastiter::fixedpoint {
namespace {

// sizes: (batch, n, m). arrays: (cost, log_a, log_b, f, g). limits: (epsilon, tolerance (batch), max_steps). results: (steps,
// residual, ended)
void sinkhorn(int bits, const py::tuple& sizes, const py::tuple& arrays, const py::tuple& limits,
              const py::tuple& results) {
    auto at = [](const py::tuple& t, int i) { return PyTuple_GET_ITEM(t.ptr(), i); };
    with_float(bits, [&]<class T>() {
        Sinkhorn<T> p;
        p.batch = integer(at(sizes, 0));
        p.n = integer(at(sizes, 1));
        p.m = integer(at(sizes, 2));
        p.cost = address<const T>(at(arrays, 0));
        p.log_a = address<const T>(at(arrays, 1));
        p.log_b = address<const T>(at(arrays, 2));
        p.f = address<T>(at(arrays, 3));
        p.g = address<T>(at(arrays, 4));
        p.epsilon = PyFloat_AsDouble(at(limits, 0));
        p.tolerance = address<const double>(at(limits, 1));
        p.max_steps = integer(at(limits, 2));
        p.steps = address<int64_t>(at(results, 0));
        p.residual = address<double>(at(results, 1));
        p.ended = address<uint8_t>(at(results, 2));
        p.workspace = static_cast<double*>(workspace.of(2 * sizeof(double) * p.batch * p.n));
        py::gil_scoped_release release;
        constexpr int64_t kPerThread = 1 << 14; // elements of the costs
        launch(sinkhorns().of<SinkhornOf<T>>().solve, p,
               [&](int threads) { return threads_for(p.batch * p.n * p.m, kPerThread, threads); });
    });
}

} // namespace

void bind_sinkhorn(py::module_& m) { m.def("sinkhorn", sinkhorn); }

} // namespace fastiter::fixedpoint
