// The bindings of fastiter.bcd.
#include "bcd/lasso.hpp"
#include "bcd/solver.hpp"
#include "core/arguments.hpp"
#include "core/launch.hpp"

namespace fastiter::bcd {

// Defined in bindings_forest.cpp, bindings_sketch.cpp and bindings_quasi_newton.cpp
void bind_forest(py::module_& m);
void bind_sketch(py::module_& m);
void bind_quasi_newton(py::module_& m);

namespace {

// columns: (start, row, value); rows: (start, column, value). start is None for dense columns, which have no rows.
std::unique_ptr<Matrix> matrix(int bits, int64_t n, int64_t m, const py::tuple& columns, const py::tuple& rows) {
    return with_float(bits, [&]<class T>() {
        const Columns<T> a{n, m, address<const int64_t>(py::handle(columns[0])),
                           address<const int32_t>(py::handle(columns[1])), address<const T>(py::handle(columns[2]))};
        const Rows<T> by_row{address<const int64_t>(py::handle(rows[0])), address<const int32_t>(py::handle(rows[1])),
                             address<const T>(py::handle(rows[2]))};
        return matrix_of<T>(a, by_row);
    });
}

// data: b, weight; separable: l1, l2, lower, upper, curvature; blocks: start, member, bound, sums
std::unique_ptr<Solver> solver(const Matrix& a, py::tuple kinds, py::tuple data, py::tuple separable, py::tuple blocks,
                               int64_t count, py::handle x) {
    const auto numbers = [](const py::tuple& t, size_t i) { return address<const double>(py::handle(t[i])); };
    Problem p;
    p.a = &a;
    p.loss = Loss(kinds[0].cast<int>()), p.classes = kinds[1].cast<int64_t>(), p.is_smooth = kinds[2].cast<bool>();
    p.b = numbers(data, 0), p.weight = numbers(data, 1);
    p.s = {numbers(separable, 0), numbers(separable, 1), numbers(separable, 2), numbers(separable, 3),
           numbers(separable, 4)};
    Blocks b;
    b.start = address<const int64_t>(py::handle(blocks[0])), b.member = address<const int32_t>(py::handle(blocks[1]));
    b.bound = numbers(blocks, 2), b.sums = numbers(blocks, 3);
    b.count = b.start ? count : 0, b.size = count;
    const Rule rule = Rule(kinds[3].cast<int>());
    const Update update = Update(kinds[4].cast<int>());
    double* at = address<double>(x);
    py::gil_scoped_release release;
    return std::make_unique<Solver>(p, b, rule, update, at);
}

int64_t run(Solver& s, py::handle sequence, int64_t count) {
    const int32_t* ids = address<const int32_t>(sequence);
    int64_t done = 0;
    py::gil_scoped_release release;
    launch([&](Team team) { done = s.run(ids, count, team); }, [](int) { return 1; }, Stops::on_request);
    return done;
}

// Writes the gradient of the losses to g and the minimum-norm subgradient of the objective to slopes; returns the
// objective.
double state(Solver& s, py::handle g, py::handle slopes, int64_t coordinates, bool fresh) {
    double *gradient = address<double>(g), *to = address<double>(slopes);
    py::gil_scoped_release release;
    s.gradient(gradient, fresh);
    for (int64_t c = 0; c < coordinates; ++c) to[c] = s.slope(c, gradient[c]);
    return s.objective();
}

void derivative(Solver& s, py::handle out) {
    std::copy(s.derivative().begin(), s.derivative().end(), address<double>(out));
}

// Writes the Cholesky factor of [A b]' [A b] to h (m + 1, m + 1): its first m rows are the columns of a matrix, and the
// last one is the target, of the same least squares with m + 1 rows. False: not positive definite.
bool reduced(const Matrix& a, py::handle b, py::handle out) {
    const double* from = address<const double>(b);
    double* h = address<double>(out);
    bool is_done = false;
    py::gil_scoped_release release;
    launch([&](Team team) { is_done = reduce(a, from, h, team); }, [](int) { return 1; }, Stops::on_request);
    return is_done;
}

// data: b, ones or None, the squares of the columns
std::unique_ptr<Lasso> lasso(const Matrix& a, const py::tuple& data, double l2, bool nonnegative, py::handle x) {
    LassoProblem p{&a,
                   address<const double>(py::handle(data[0])),
                   address<const double>(py::handle(data[1])),
                   address<const double>(py::handle(data[2])),
                   l2,
                   nonnegative};
    double* at = address<double>(x);
    py::gil_scoped_release release;
    return std::make_unique<Lasso>(p, at);
}

// Returns the gap, the objective and the number of working sets.
py::tuple solve(Lasso& s, double l1, double tolerance, int64_t most) {
    LassoEnd end;
    {
        py::gil_scoped_release release;
        launch([&](Team team) { end = s.solve(l1, tolerance, most, team); }, [](int) { return 1; }, Stops::on_request);
    }
    return py::make_tuple(end.gap, end.objective, end.steps);
}

// sums[j] = the sum over i of w_i a_ij^2
void squares(const Matrix& a, py::handle w, py::handle sums) {
    const double* from = address<const double>(w);
    double* to = address<double>(sums);
    py::gil_scoped_release release;
    a.squares(from, to);
}

// sums[j] += a_j . w for all columns
void products(const Matrix& a, py::handle w, py::handle sums) {
    const double* from = address<const double>(w);
    double* to = address<double>(sums);
    py::gil_scoped_release release;
    a.products(from, to, 1);
}

} // namespace

void bind(py::module_& m) {
    py::class_<Matrix>(m, "Matrix").def("products", products).def("reduced", reduced).def("squares", squares);
    py::class_<Solver>(m, "Solver")
        .def("run", run)
        .def("state", state)
        .def("derivative", derivative)
        .def("last_change", &Solver::last_change);
    py::class_<Lasso>(m, "Lasso")
        .def("start", &Lasso::start)
        .def("solve", solve)
        .def("largest_slope", &Lasso::largest_slope);
    bind_forest(m);
    bind_sketch(m);
    bind_quasi_newton(m);
    m.def("matrix", matrix, py::keep_alive<0, 4>(), py::keep_alive<0, 5>()); // keep the arrays alive
    m.def("lasso", lasso, py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), py::keep_alive<0, 5>());
    m.def("solver", solver, py::keep_alive<0, 1>(), py::keep_alive<0, 3>(), py::keep_alive<0, 4>(),
          py::keep_alive<0, 5>(), py::keep_alive<0, 7>());
}

} // namespace fastiter::bcd
