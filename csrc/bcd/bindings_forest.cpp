// The bindings of fastiter.bcd: blocks that are forests.
#include "bcd/fields.hpp"
#include "bcd/forest.hpp"
#include "core/launch.hpp"

namespace fastiter::bcd {
namespace {

Graph graph_of(int64_t n, const py::object& rows) {
    return {n, field<int64_t>(rows, "starts"), field<int32_t>(rows, "indices"), field<double>(rows, "values")};
}

// Writes the block of each node; returns the number of blocks.
int64_t partition(int64_t n, const py::object& rows, py::handle order, bool edges, py::handle out) {
    const Graph graph = graph_of(n, rows);
    const int32_t* first = address<const int32_t>(order);
    int32_t* to = address<int32_t>(out);
    py::gil_scoped_release release;
    const std::vector<int32_t> block = forest_partition(graph, first, edges);
    int32_t largest = -1;
    for (int64_t i = 0; i < n; ++i) {
        to[i] = block[size_t(i)];
        largest = std::max(largest, to[i]);
    }
    return largest + 1;
}

std::unique_ptr<Forests> forests(int64_t n, const py::object& rows, py::handle block, int64_t count) {
    const Graph graph = graph_of(n, rows);
    const int32_t* of = address<const int32_t>(block);
    py::gil_scoped_release release;
    return std::make_unique<Forests>(graph, of, int32_t(count));
}

int64_t run_forests(const Forests& f, py::handle b, py::handle x, int64_t first, int64_t count) {
    const double* from = address<const double>(b);
    double* to = address<double>(x);
    int64_t done = 0;
    py::gil_scoped_release release;
    launch([&](Team team) { done = f.run(from, to, first, count, team); }, [](int) { return 1; }, Stops::on_request);
    return done;
}

int64_t run_greedy(const Forests& f, py::handle x, py::handle gradient, int64_t count, py::handle sizes) {
    double *to = address<double>(x), *g = address<double>(gradient);
    int64_t* each = address<int64_t>(sizes);
    int64_t done = 0;
    py::gil_scoped_release release;
    launch([&](Team team) { done = f.run_greedy(to, g, count, each, team); }, [](int) { return 1; }, Stops::on_request);
    return done;
}

} // namespace

void bind_forest(py::module_& m) {
    py::class_<Forests>(m, "Forests")
        .def("run", run_forests)
        .def("run_greedy", run_greedy)
        .def("has_cycles", &Forests::has_cycles)
        .def("has_signs", &Forests::has_signs);
    m.def("forest_partition", partition);
    m.def("forests", forests, py::keep_alive<0, 2>());
}

} // namespace fastiter::bcd
