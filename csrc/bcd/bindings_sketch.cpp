// The bindings of fastiter.bcd: randomized Kaczmarz steps.
#include "bcd/matrix.hpp"
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include <vector>

namespace fastiter::bcd {
namespace {

// x += (b_i - a_i . x) / |a_i|^2 a_i for the rows i of a sequence; rows are the columns of `rows`; inverse: 1 / |a_i|^2
int64_t kaczmarz(const Matrix& rows, py::handle b, py::handle inverse, py::handle x, py::handle sequence,
                 int64_t count) {
    const double *target = address<const double>(b), *scale = address<const double>(inverse);
    double* to = address<double>(x);
    const int32_t* order = address<const int32_t>(sequence);
    Block<double> own(rows.n); // aligned, unlike NumPy arrays
    const int64_t work = std::max<int64_t>(rows.start ? 16 : rows.n, 1);
    int64_t done = 0;
    py::gil_scoped_release release;
    std::copy(to, to + rows.n, own.data());
    launch(
        [&](Team team) {
            while (done < count) {
                const int64_t some = std::min(count - done, std::max<int64_t>((1 << 20) / work, 1));
                if (has_to_stop(team, some * work)) return;
                rows.kaczmarz({target, scale, own.data(), order + done, some});
                done += some;
            }
        },
        [](int) { return 1; }, Stops::on_request);
    std::copy(own.data(), own.data() + rows.n, to);
    return done;
}

// order[k] = the first i with sums[i] > u_k sums[m - 1], or the last i if there is none, for u_k in [0, 1). A table
// gives the index at which each search starts.
void draw(py::handle sums, int64_t m, py::handle u, int64_t count, py::handle order) {
    const double *ends = address<const double>(sums), *share = address<const double>(u);
    int32_t* to = address<int32_t>(order);
    py::gil_scoped_release release;
    std::vector<int32_t> first(static_cast<size_t>(m));
    for (int64_t k = 0, i = 0; k < m; ++k) {
        while (i < m - 1 && ends[i] <= ends[m - 1] * double(k) / double(m)) ++i;
        first[size_t(k)] = int32_t(i);
    }
    for (int64_t k = 0; k < count; ++k) {
        const double target = share[k] * ends[m - 1];
        int64_t i = first[size_t(std::clamp<int64_t>(int64_t(share[k] * double(m)), 0, m - 1))];
        while (i > 0 && ends[i - 1] > target) --i; // rounding may have put the start too far
        while (i < m - 1 && ends[i] <= target) ++i;
        to[k] = int32_t(i);
    }
}

// Kaczmarz steps on the residual r (n), with the Gram matrix (n, n) of the rows: y_i += c, r -= c gram_i with
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
    m.def("draw", draw);
    m.def("kaczmarz_residual", kaczmarz_residual);
}

} // namespace fastiter::bcd
