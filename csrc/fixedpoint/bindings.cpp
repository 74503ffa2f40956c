// The bindings of fastiter.fixedpoint.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "fixedpoint/cpu/kernels.hpp"

namespace fastiter::fixedpoint {
namespace {

// bits: 32 or 64. sizes: rows, n, m. vectors: slot, x, f, next. history: last_r, last_g, dr, dg, gram, pushed.
void anderson(int bits, const py::tuple& sizes, const py::tuple& vectors, const py::tuple& history, py::handle restart,
              double beta, double ridge, bool type_one) {
    auto at = [](const py::tuple& t, int i) { return PyTuple_GET_ITEM(t.ptr(), i); };
    with_float(bits, [&]<class T>() {
        AndersonStep<T> p;
        p.rows = integer(at(sizes, 0)), p.n = integer(at(sizes, 1)), p.m = integer(at(sizes, 2));
        p.slot = address<const int64_t>(at(vectors, 0));
        p.x = address<const T>(at(vectors, 1)), p.f = address<const T>(at(vectors, 2));
        p.next = address<T>(at(vectors, 3));
        p.last_r = address<T>(at(history, 0)), p.last_g = address<T>(at(history, 1));
        p.dr = address<T>(at(history, 2)), p.dg = address<T>(at(history, 3));
        p.gram = address<double>(at(history, 4)), p.pushed = address<int64_t>(at(history, 5));
        p.restart = address<const uint8_t>(restart);
        p.beta = beta, p.ridge = ridge, p.type_one = type_one;
        p.workspace = static_cast<double*>(workspace.of(sizeof(double) * p.rows * (chunks_of(p.n) + 1) * 5 * p.m));
        py::gil_scoped_release release;
        constexpr int64_t kLeast = 1 << 19; // multiplications
        launch(kernels().of<KernelsOf<T>>().anderson, p,
               [&](int threads) { return threads_for(3 * p.rows * p.n * p.m, kLeast, threads); });
    });
}

} // namespace

// Further files of bindings define their functions here: void bind_<topic>(py::module_& m);
void bind_hopfield(py::module_& m);

void bind(py::module_& m) {
    m.def("anderson", anderson);
    // A line for each further file: bind_<topic>(m);
    bind_hopfield(m);
}

} // namespace fastiter::fixedpoint
