// The bindings of fastiter.bcd: randomized Kaczmarz steps.
#include "bcd/matrix.hpp"
#include "core/arguments.hpp"
#include "core/launch.hpp"

namespace fastiter::bcd {
namespace {

// x += (b_i - a_i . x) / |a_i|^2 a_i for the rows i of a sequence, which are the columns of `rows`; inverse: 1 / |a_i|^2
int64_t kaczmarz(const Matrix& rows, py::handle b, py::handle inverse, py::handle x, py::handle sequence,
                 int64_t count) {
    const double *target = address<const double>(b), *scale = address<const double>(inverse);
    double* to = address<double>(x);
    const int32_t* order = address<const int32_t>(sequence);
    const int64_t work = rows.start ? 16 : rows.n;
    int64_t done = 0;
    py::gil_scoped_release release;
    launch(
        [&](Team team) {
            for (done = 0; done < count && !has_to_stop(team, work); ++done) {
                const int32_t i = order[done];
                rows.add(i, (target[i] - rows.dot(i, to)) * scale[i], to);
            }
        },
        [](int) { return 1; }, Stops::on_request);
    return done;
}

// The same on the residual r (n), with the Gram matrix (n, n) of the rows: y_i += c, r -= c gram_i with
// c = r_i / gram_ii, so that x changes by -rows' y; until |r| <= bound. Returns the number of steps.
int64_t kaczmarz_residual(int64_t n, py::handle gram, py::handle r, py::handle y, py::handle sequence, int64_t count,
                          double bound) {
    const double* products = address<const double>(gram);
    double *left = address<double>(r), *sums = address<double>(y);
    const int32_t* order = address<const int32_t>(sequence);
    int64_t done = 0;
    py::gil_scoped_release release;
    launch(
        [&](Team team) {
            for (done = 0; done < count && !has_to_stop(team, n); ++done) {
                double norm = 0;
                for (int64_t j = 0; j < n; ++j) norm += left[j] * left[j];
                if (norm <= bound * bound) return;
                const int32_t i = order[done];
                const double* row = products + i * n;
                const double c = row[i] > 0 ? left[i] / row[i] : 0;
                sums[i] += c;
                for (int64_t j = 0; j < n; ++j) left[j] -= c * row[j];
            }
        },
        [](int) { return 1; }, Stops::on_request);
    return done;
}

} // namespace

void bind_sketch(py::module_& m) {
    m.def("kaczmarz", kaczmarz);
    m.def("kaczmarz_residual", kaczmarz_residual);
}

} // namespace fastiter::bcd
