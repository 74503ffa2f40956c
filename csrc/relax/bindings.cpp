// The bindings of fastiter.relax.
#include "core/arguments.hpp"
#include "relax/matrix.hpp"
#include "relax/pattern.hpp"
#include "relax/schwarz.hpp"
#include "relax/tridiagonal.hpp"
#include <cstring>

namespace fastiter::relax {

// Defined in bindings_tuners.cpp
void bind_tuners(py::module_& m);

namespace {

// Calls f<A, V>() with the number types of the matrix and the vectors: float32, float32 with float64, float64,
// complex128.
template <class F> auto with_numbers(int numbers, F f) {
    switch (numbers) {
    case 0:
        return f.template operator()<float, float>();
    case 1:
        return f.template operator()<float, double>();
    case 2:
        return f.template operator()<double, double>();
    default:
        return f.template operator()<Complex, Complex>();
    }
}

// Calls f without the GIL. A zero diagonal or a singular block raises ZeroDivisionError(row, system).
template <class F> std::unique_ptr<RelaxMatrix> prepared(F f) {
    try {
        py::gil_scoped_release release;
        return f();
    } catch (const SingularRow& singular) {
        PyErr_SetObject(PyExc_ZeroDivisionError, py::make_tuple(singular.row, singular.system).ptr());
    }
    throw py::error_already_set();
}

template <class A> Csr<A> csr_of(int64_t n, py::handle start, py::handle column, py::handle value, py::handle order) {
    return {n, address<const int64_t>(start), address<const int32_t>(column), address<const A>(value),
            address<const int32_t>(order)};
}

std::vector<int64_t> list_of(const py::handle& x) {
    if (PyLong_Check(x.ptr())) return {};
    const Array array(x.ptr());
    const auto* data = array.data<const int64_t>();
    return {data, data + array.size(0)};
}

// The given clusters, or a single cluster (natural order) if `rows` is 0
Clusters clusters_of(int64_t n, const py::handle& rows, const py::handle& colours) {
    Clusters clusters{list_of(rows), list_of(colours)};
    if (clusters.rows.empty()) clusters = {{0, n}, {0, 1}};
    return clusters;
}

std::unique_ptr<RelaxMatrix> csr_matrix(int numbers, int64_t n, py::handle start, py::handle column, py::handle value,
                                        py::handle order, py::handle rows, py::handle colours, int part,
                                        int64_t batch) {
    return with_numbers(numbers, [&]<class A, class V>() {
        const Csr<A> csr = csr_of<A>(n, start, column, value, order);
        const Clusters clusters = clusters_of(n, rows, colours);
        return prepared([&] { return prepare_rows<A, V>(csr, clusters, Part(part), batch); });
    });
}

std::unique_ptr<RelaxMatrix> sell_matrix(int numbers, int64_t n, py::handle start, py::handle column, py::handle value,
                                         py::handle order, py::handle colours, int part) {
    return with_numbers(numbers, [&]<class A, class V>() {
        const Csr<A> csr = csr_of<A>(n, start, column, value, order);
        std::vector<int64_t> first = list_of(colours);
        if (first.empty()) first = {0, n};
        return prepared([&] { return prepare_slices<A, V>(csr, first, Part(part)); });
    });
}

std::unique_ptr<RelaxMatrix> bsr_matrix(int numbers, int64_t n, int size, int64_t scalar_rows, py::handle start,
                                        py::handle column, py::handle value, py::handle order, py::handle rows,
                                        py::handle colours, int64_t batch) {
    return with_numbers(numbers, [&]<class A, class V>() {
        const Csr<A> csr = csr_of<A>(n, start, column, value, order);
        const Clusters clusters = clusters_of(n, rows, colours);
        return prepared([&] { return prepare_blocks<A, V>(csr, size, scalar_rows, clusters, batch); });
    });
}

std::unique_ptr<RelaxMatrix> dense_matrix(int numbers, int64_t n, py::handle value, py::handle order) {
    return with_numbers(numbers, [&]<class A, class V>() {
        const A* data = address<const A>(value);
        const int32_t* sequence = address<const int32_t>(order);
        return prepared([&] { return prepare_dense<A, V>(n, data, sequence); });
    });
}

std::unique_ptr<RelaxMatrix> kaczmarz_matrix(int numbers, int64_t n, int64_t columns, py::handle start,
                                             py::handle column, py::handle value, py::handle order, int64_t batch) {
    return with_numbers(numbers, [&]<class A, class V>() {
        const Csr<A> csr = csr_of<A>(n, start, column, value, order);
        return prepared([&] { return prepare_kaczmarz<A, V>(csr, columns, batch); });
    });
}

// order 0: red-black or natural order
std::unique_ptr<RelaxMatrix> relax_stencil(int numbers, int64_t n0, int64_t n1, int64_t n2, py::handle coefficients,
                                           bool is_constant, py::handle mask_address, bool red_black, bool projections,
                                           py::handle order, py::handle rows, py::handle colours) {
    const int64_t grid[3] = {n0, n1, n2};
    const uint8_t* mask = address<const uint8_t>(mask_address);
    const StencilOrder options{red_black, projections, address<const int32_t>(order),
                               clusters_of(n0 * n1 * n2, rows, colours)};
    return with_numbers(numbers, [&]<class A, class V>() {
        const V* data = address<const V>(coefficients);
        return prepared([&] { return prepare_stencil(grid, data, is_constant, mask, options); });
    });
}

// omega and momentum: one float64 per sweep
void sweep(RelaxMatrix& m, py::handle x, py::handle b, py::handle d, int64_t k, py::handle omega, py::handle momentum,
           int64_t count, int kind) {
    void *to = address<void>(x), *direction = address<void>(d);
    const void* from = address<const void>(b);
    const Sweeps sweeps{address<const double>(omega), address<const double>(momentum), count, SweepKind(kind)};
    py::gil_scoped_release release;
    m.sweep(to, from, direction, k, sweeps);
}

// One sweep over the clusters of colours [first, last) of a CSR or SELL matrix
void sweep_colours(RelaxMatrix& m, py::handle x, py::handle b, int64_t k, double omega, int64_t first, int64_t last,
                   bool backward) {
    void* to = address<void>(x);
    const void* from = address<const void>(b);
    const Sweeps sweeps{&omega, nullptr, 1, backward ? SweepKind::backward : SweepKind::forward, first, last};
    py::gil_scoped_release release;
    m.sweep(to, from, nullptr, k, sweeps);
}

void residual(RelaxMatrix& m, py::handle x, py::handle b, py::handle r, int64_t k, py::handle norms) {
    const void *at = address<const void>(x), *from = address<const void>(b);
    void* to = address<void>(r);
    double* squares = address<double>(norms);
    py::gil_scoped_release release;
    m.residual(at, from, to, k, squares);
}

void schwarz_sweep(int numbers, py::handle start, py::handle column, py::handle value, int64_t count, py::handle first,
                   py::handle row, py::handle first_inverse, py::handle inverse, py::handle x, py::handle y,
                   py::handle b, int64_t k, double keep, double omega, bool backward) {
    with_numbers(numbers, [&]<class A, class V>() {
        const Subdomains<A, V> m{address<const int64_t>(start),
                                 address<const int32_t>(column),
                                 address<const A>(value),
                                 count,
                                 address<const int64_t>(first),
                                 address<const int32_t>(row),
                                 address<const int64_t>(first_inverse),
                                 address<const sum_of<V>>(inverse)};
        const V *from = address<const V>(x), *rhs = address<const V>(b);
        V* to = address<V>(y);
        py::gil_scoped_release release;
        sweep_schwarz<A, V>(m, from, to, rhs, k, keep, omega, backward);
    });
}

// See eigenvalues_of_tridiagonal.
bool relax_tridiagonal(int64_t n, py::handle diagonal, py::handle off, py::handle first) {
    return eigenvalues_of_tridiagonal(n, address<double>(diagonal), address<double>(off), address<double>(first));
}

// A fingerprint of the memory: two different contents give the same one with probability 2^-64. A sum would miss two
// sign changes.
uint64_t relax_fingerprint(py::handle x, int64_t bytes) {
    constexpr int kLanes = 8; // independent chains of products
    constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
    const char* data = address<const char>(x);
    py::gil_scoped_release release;
    uint64_t lanes[kLanes];
    for (int l = 0; l < kLanes; ++l) lanes[l] = kOdd * uint64_t(l + 1);
    const auto mix = [](uint64_t& lane, uint64_t word) {
        lane = (lane ^ word) * kOdd;
        lane ^= lane >> 29; // products propagate bits upward only; this propagates them down
    };
    int64_t at = 0;
    for (; at + 8 * kLanes <= bytes; at += 8 * kLanes)
        for (int l = 0; l < kLanes; ++l) {
            uint64_t word;
            std::memcpy(&word, data + at + 8 * l, 8);
            mix(lanes[l], word);
        }
    uint64_t all = uint64_t(bytes);
    for (; at < bytes; ++at) mix(all, uint8_t(data[at]));
    for (const uint64_t lane : lanes) mix(all, lane);
    mix(all, 0);
    return all;
}

// Returns (fault, row).
std::pair<int, int64_t> relax_check(int numbers, int64_t n, int64_t columns, int64_t entries, py::handle start,
                                    py::handle column, py::handle value) {
    return with_numbers(numbers, [&]<class A, class V>() {
        int64_t row = 0;
        const Pattern p{n, address<const int64_t>(start), address<const int32_t>(column)};
        const A* data = address<const A>(value);
        py::gil_scoped_release release;
        const int fault = int(check_matrix(p, columns, entries, data, &row));
        return std::pair<int, int64_t>(fault, row);
    });
}

Pattern pattern_of(int64_t n, py::handle start, py::handle column) {
    return {n, address<const int64_t>(start), address<const int32_t>(column)};
}

int64_t relax_colour(int64_t n, py::handle start, py::handle column, py::handle colour) {
    const Pattern p = pattern_of(n, start, column);
    int32_t* to = address<int32_t>(colour);
    py::gil_scoped_release release;
    return colour_first_fit(p, to);
}

int64_t relax_colour_disjoint(int64_t n, int64_t columns, py::handle start, py::handle column, py::handle colour) {
    const Pattern p = pattern_of(n, start, column);
    int32_t* to = address<int32_t>(colour);
    py::gil_scoped_release release;
    return colour_disjoint(p, columns, to);
}

int64_t relax_red_black(int64_t n, py::handle start, py::handle column, py::handle colour) {
    const Pattern p = pattern_of(n, start, column);
    int32_t* to = address<int32_t>(colour);
    py::gil_scoped_release release;
    return colour_red_black(p, to);
}

// Colours clusters of `size` rows.
int64_t relax_colour_clusters(int64_t n, py::handle start, py::handle column, int64_t size, py::handle colour) {
    const Pattern p = pattern_of(n, start, column);
    int32_t* to = address<int32_t>(colour);
    py::gil_scoped_release release;
    std::vector<int64_t> first;
    std::vector<int32_t> other;
    quotient(p, size, first, other);
    return colour_first_fit({int64_t(first.size()) - 1, first.data(), other.data()}, to);
}

int64_t relax_check_colours(int64_t n, py::handle start, py::handle column, py::handle colour) {
    const Pattern p = pattern_of(n, start, column);
    const int32_t* mask_address = address<const int32_t>(colour);
    py::gil_scoped_release release;
    return check_colours(p, mask_address);
}

} // namespace

void bind(py::module_& m) {
    py::class_<RelaxMatrix>(m, "Matrix")
        .def("sweep", sweep)
        .def("sweep_colours", sweep_colours)
        .def("residual", residual);
    m.def("csr", csr_matrix);
    m.def("sell", sell_matrix);
    m.def("bsr", bsr_matrix);
    m.def("dense", dense_matrix);
    m.def("kaczmarz", kaczmarz_matrix);
    m.def("stencil", relax_stencil);
    m.def("schwarz", schwarz_sweep);
    m.def("fingerprint", relax_fingerprint);
    m.def("check", relax_check);
    m.def("tridiagonal", relax_tridiagonal);
    m.def("colour", relax_colour);
    m.def("colour_disjoint", relax_colour_disjoint);
    m.def("red_black", relax_red_black);
    m.def("colour_clusters", relax_colour_clusters);
    m.def("check_colours", relax_check_colours);
    bind_tuners(m);
}

} // namespace fastiter::relax
