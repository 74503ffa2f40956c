// The bindings of fastiter.bcd.
#include "bcd/fields.hpp"
#include "bcd/lasso.hpp"
#include "bcd/solver.hpp"
#include "core/launch.hpp"

namespace fastiter::bcd {

// Defined in bindings_forest.cpp, bindings_sketch.cpp and bindings_quasi_newton.cpp
void bind_forest(py::module_& m);
void bind_sketch(py::module_& m);
void bind_quasi_newton(py::module_& m);

namespace {

// columns and rows have the fields starts, indices and values; starts is None for dense columns, which have no rows.
std::unique_ptr<Matrix> matrix(int bits, int64_t n, int64_t m, const py::object& columns, const py::object& rows) {
    return with_float(bits, [&]<class T>() {
        const Columns<T> a{n, m, field<int64_t>(columns, "starts"), field<int32_t>(columns, "indices"),
                           field<T>(columns, "values")};
        const Rows<T> by_row{field<int64_t>(rows, "starts"), field<int32_t>(rows, "indices"), field<T>(rows, "values")};
        return matrix_of<T>(a, by_row);
    });
}

Problem problem_of(const Matrix& a, const py::object& losses, const py::object& separable) {
    Problem p;
    p.a = &a;
    p.loss = Loss(losses.attr("loss").cast<int>());
    p.classes = losses.attr("classes").cast<int64_t>();
    p.b = field<double>(losses, "b");
    p.weight = field<double>(losses, "weights");
    p.is_smooth = losses.attr("is_smooth").cast<bool>();
    p.s.l1 = field<double>(separable, "l1");
    p.s.l2 = field<double>(separable, "l2");
    p.s.lower = field<double>(separable, "lower");
    p.s.upper = field<double>(separable, "upper");
    p.s.curvature = field<double>(losses, "curvature");
    return p;
}

Blocks blocks_of(const py::object& blocks) {
    Blocks b;
    b.start = field<int64_t>(blocks, "start");
    b.member = field<int32_t>(blocks, "member");
    b.bound = field<double>(blocks, "bounds");
    b.sums = field<double>(blocks, "sums");
    b.size = blocks.attr("size").cast<int64_t>();
    b.count = b.start ? blocks.attr("number").cast<int64_t>() : 0;
    return b;
}

// The fields are those of NamedTuples in _problem.py and _blocks.py.
std::unique_ptr<Solver> solver(const Matrix& a, const py::object& losses, const py::object& separable,
                               const py::object& blocks, int rule, int update, py::handle x) {
    const Problem p = problem_of(a, losses, separable);
    const Blocks b = blocks_of(blocks);
    double* at = address<double>(x);
    py::gil_scoped_release release;
    return std::make_unique<Solver>(p, b, Rule(rule), Update(update), at);
}

int64_t run_solver(Solver& s, py::handle sequence, int64_t count) {
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

// ones may be None; squares: those of the columns
std::unique_ptr<Lasso> lasso(const Matrix& a, py::handle b, py::handle ones, py::handle squares, double l2,
                             bool nonnegative, py::handle x) {
    LassoProblem p;
    p.a = &a;
    p.b = address<const double>(b);
    p.ones = address<const double>(ones);
    p.squares = address<const double>(squares);
    p.l2 = l2;
    p.nonnegative = nonnegative;
    double* at = address<double>(x);
    py::gil_scoped_release release;
    return std::make_unique<Lasso>(p, at);
}

// Returns the gap, the objective and the number of working sets.
py::tuple solve(Lasso& s, double l1, double tolerance, int64_t max_steps) {
    LassoEnd end;
    {
        py::gil_scoped_release release;
        launch([&](Team team) { end = s.solve(l1, tolerance, max_steps, team); }, [](int) { return 1; },
               Stops::on_request);
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
        .def("run", run_solver)
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
    m.def("lasso", lasso, py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), py::keep_alive<0, 3>(),
          py::keep_alive<0, 7>());
    m.def("solver", solver, py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), py::keep_alive<0, 3>(),
          py::keep_alive<0, 4>(), py::keep_alive<0, 7>());
}

} // namespace fastiter::bcd
