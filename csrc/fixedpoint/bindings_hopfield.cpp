// The bindings of Hopfield networks in fastiter._core.fixedpoint.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "fixedpoint/cpu/hopfield_kernels.hpp"

namespace fastiter::fixedpoint {
namespace {

PyObject* item(const py::tuple& x, int i) { return PyTuple_GET_ITEM(x.ptr(), i); }

// (batch, head, row, unit) with contiguous units
template <class T> Vectors<T> vectors(PyObject* x) {
    const Array array(x);
    return {array.data<T>(), array.stride(0), array.stride(1), array.stride(2)};
}

// shape: (batch, heads, L, S, D). arrays: stored, beta (contiguous), and bias (batch, head, query, pattern) or None
template <class T> HopfieldProblem<T> problem_of(const py::tuple& shape, const py::tuple& arrays) {
    auto size = [&](int i) { return integer(item(shape, i)); };
    HopfieldProblem<T> p;
    p.shape = {size(0), size(1), size(2), size(3), size(4)};
    p.stored = vectors<const T>(item(arrays, 0));
    p.beta = address<const T>(item(arrays, 1));
    if (item(arrays, 2) != Py_None) {
        const Array bias(item(arrays, 2));
        p.bias = {bias.data<const T>(), bias.stride(0), bias.stride(1), bias.stride(2), bias.stride(3)};
    }
    return p;
}

// As many threads as leave each about the multiplications that one start of a team takes
int useful(const HopfieldShape& q, int64_t passes, int threads) {
    constexpr double kMinWork = 4e5;
    const double work = double(q.problems()) * double(q.L) * double(q.S) * double(q.D) * double(passes);
    return int(std::clamp(work / kMinWork, 1.0, double(threads)));
}

// limits: (whether queries stop, rtol, atol, max_steps). results: (value, converged, steps, residual). saved: (states,
// largest, inverse), each None if not requested
void update(int bits, const py::tuple& shape, const py::tuple& arrays, py::handle state, const py::tuple& limits,
            const py::tuple& results, const py::tuple& saved) {
    with_float(bits, [&]<class T>() {
        HopfieldUpdate<T> p;
        p.problem = problem_of<T>(shape, arrays);
        p.state = vectors<const T>(state.ptr());
        p.stops = item(limits, 0) == Py_True;
        p.rtol = PyFloat_AsDouble(item(limits, 1));
        p.atol = PyFloat_AsDouble(item(limits, 2));
        p.max_steps = integer(item(limits, 3));
        p.value = vectors<T>(item(results, 0));
        p.converged = address<uint8_t>(item(results, 1));
        p.steps = address<int64_t>(item(results, 2));
        p.residual = address<T>(item(results, 3));
        p.states = address<T>(item(saved, 0));
        p.softmax = {address<T>(item(saved, 1)), address<T>(item(saved, 2))};
        py::gil_scoped_release release;
        const HopfieldShape& q = p.problem.shape;
        launch(hopfield_kernels().of<HopfieldTable<T>>().update, p, [&](int threads) {
            // expected updates of a query
            const int64_t likely = p.stops ? std::min<int64_t>(p.max_steps, 4) : p.max_steps;
            threads = useful(q, std::max<int64_t>(likely, 1), threads);
            // A query's results do not depend on the chunk size; small chunks are used if there are too few problems
            // for all threads.
            p.chunk = q.problems() * ((q.L + kHopfieldChunk - 1) / kHopfieldChunk) >= 4 * threads ? kHopfieldChunk : 64;
            p.workspace = workspace.of(hopfield_kernels().of<HopfieldTable<T>>().workspace(p, threads));
            return threads;
        });
    });
}

// saved: (states, largest, inverse, steps). gradients: the gradient with respect to the last states, overwritten by that
// of the first states, and the gradients of stored and beta
void gradient(int bits, const py::tuple& shape, const py::tuple& arrays, const py::tuple& saved, int64_t longest,
              const py::tuple& gradients) {
    with_float(bits, [&]<class T>() {
        HopfieldGradient<T> p;
        p.problem = problem_of<T>(shape, arrays);
        p.states = address<const T>(item(saved, 0));
        p.softmax = {address<T>(item(saved, 1)), address<T>(item(saved, 2))};
        p.steps = address<const int64_t>(item(saved, 3));
        p.gradient = address<T>(item(gradients, 0));
        p.dstored = address<T>(item(gradients, 1));
        p.dbeta = address<T>(item(gradients, 2));
        py::gil_scoped_release release;
        const auto& table = hopfield_gradient_kernels().of<HopfieldGradientTable<T>>();
        launch(table.gradient, p, [&](int threads) {
            threads = useful(p.problem.shape, 3 * std::max<int64_t>(longest, 1), threads);
            p.workspace = workspace.of(table.gradient_workspace(p, threads));
            return threads;
        });
    });
}

// results: (dstored, dbeta, relative residuals of the linear systems)
void adjoint(int bits, const py::tuple& shape, const py::tuple& arrays, py::handle states, py::handle gradient,
             double rtol, int64_t max_steps, const py::tuple& results) {
    with_float(bits, [&]<class T>() {
        HopfieldAdjoint<T> p;
        p.problem = problem_of<T>(shape, arrays);
        p.states = address<const T>(states);
        p.gradient = address<const T>(gradient);
        p.rtol = rtol;
        p.max_steps = max_steps;
        p.dstored = address<T>(item(results, 0));
        p.dbeta = address<T>(item(results, 1));
        p.residual = address<T>(item(results, 2));
        py::gil_scoped_release release;
        const auto& table = hopfield_gradient_kernels().of<HopfieldGradientTable<T>>();
        launch(table.adjoint, p, [&](int threads) {
            threads = useful(p.problem.shape, 10, threads);
            p.workspace = workspace.of(table.adjoint_workspace(p, threads));
            return threads;
        });
    });
}

} // namespace

void bind_hopfield(py::module_& m) {
    m.def("hopfield_update", update);
    m.def("hopfield_gradient", gradient);
    m.def("hopfield_adjoint", adjoint);
}

} // namespace fastiter::fixedpoint
