// The bindings of the proximal operators of fastiter.fixedpoint.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "fixedpoint/cpu/prox.hpp"

namespace fastiter::fixedpoint {
namespace {

// shape: (outer, size, inner) of the contiguous arrays y and out
void prox(int kind, int bits, const py::tuple& shape, double parameter, py::handle y, py::handle out) {
    with_float(bits, [&]<class T>() {
        const ProxOf<T>& kernels = prox_kernels().of<ProxOf<T>>();
        Groups<T> g;
        g.outer = integer(PyTuple_GET_ITEM(shape.ptr(), 0));
        g.size = integer(PyTuple_GET_ITEM(shape.ptr(), 1));
        g.inner = integer(PyTuple_GET_ITEM(shape.ptr(), 2));
        g.parameter = parameter;
        g.y = address<const T>(y);
        g.out = address<T>(out);
        if (g.outer * g.size * g.inner == 0) return;
        py::gil_scoped_release release;
        constexpr int64_t kMinNumbers = 1 << 12; // elements per thread
        launch(kernels.run[kind], g, [&](int threads) {
            const int used = threads_for(g.outer * g.size * g.inner, kMinNumbers, threads);
            g.bytes = Prox(kind) == Prox::entropy ? 0 : kernels.bytes(g);
            g.workspace = workspace.of(size_t(g.bytes * used));
            return used;
        });
    });
}

} // namespace

void bind_prox(py::module_& m) { m.def("prox", prox); }

} // namespace fastiter::fixedpoint
