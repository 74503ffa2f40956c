// The bindings of transport sweeps.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "fixedpoint/cpu/transport.hpp"

namespace fastiter::fixedpoint {
namespace {

// sizes: (batch, cells, directions, forward). arrays: (source, sigma, width, cosine, weight, incoming, phi, outgoing)
void transport(int bits, const py::tuple& sizes, const py::tuple& arrays) {
    auto at = [](const py::tuple& t, int i) { return PyTuple_GET_ITEM(t.ptr(), i); };
    with_float(bits, [&]<class T>() {
        Transport<T> p;
        p.batch = integer(at(sizes, 0));
        p.cells = integer(at(sizes, 1));
        p.directions = integer(at(sizes, 2));
        p.forward = integer(at(sizes, 3));
        p.source = address<const T>(at(arrays, 0));
        p.sigma = address<const T>(at(arrays, 1));
        p.width = address<const T>(at(arrays, 2));
        p.cosine = address<const T>(at(arrays, 3));
        p.weight = address<const T>(at(arrays, 4));
        p.incoming = address<const T>(at(arrays, 5));
        p.phi = address<T>(at(arrays, 6));
        p.outgoing = address<T>(at(arrays, 7));
        py::gil_scoped_release release;
        constexpr int64_t kMinCells = 1 << 14; // cells times directions
        launch(transports().of<TransportOf<T>>().sweep, p, [&](int threads) {
            return int(std::min<int64_t>(threads_for(p.batch * p.cells * p.directions, kMinCells, threads),
                                         std::max<int64_t>(p.batch, 1)));
        });
    });
}

} // namespace

void bind_transport(py::module_& m) { m.def("transport", transport); }

} // namespace fastiter::fixedpoint
