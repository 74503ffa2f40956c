// Sweeps over single coordinates, and products with columns.
#include "bcd/cpu/forest.hpp"
#include "bcd/cpu/kaczmarz.hpp"
#include "bcd/cpu/lasso.hpp"
#include "bcd/cpu/losses.hpp"
#include "bcd/cpu/products.hpp"
#include "core/cpu/vmath.hpp"

namespace fastiter::bcd::FASTITER_LEVEL {
namespace {

template <class T> double dot(const Columns<T>& a, int64_t j, const double* u) { return column_dot(a, j, u); }

template <class T> void add(const Columns<T>& a, int64_t j, double d, double* z) { column_add(a, j, d, z); }

template <class T> void products(const Columns<T>& a, const double* u, double* g, int64_t stride) {
    for (int64_t j = 0; j < a.m; ++j) g[j * stride] += column_dot(a, j, u);
}

template <class T> double sweep(const Sweep<T>& arguments) {
    const Columns<T>& a = arguments.a;
    const SweepState& p = arguments.to;
    double largest = 0;
    int64_t changes = 0;
    const auto at_corner = [&](int64_t j, double x) {
        return (x == 0 && p.s.l1[j] > 0) || x == p.s.lower[j] || x == p.s.upper[j];
    };
    for (int64_t k = 0; k < p.count; ++k) {
        const int64_t j = p.order[k];
        const double curvature = p.s.curvature[j], before = p.x[j];
        if (curvature <= 0) continue;
        const double g = (p.is_quadratic ? p.u[j] : column_dot(a, j, p.u)) + p.s.l2[j] * before;
        const double now = nearest(before - g / curvature, p.s.l1[j] / curvature, p.s.lower[j], p.s.upper[j]);
        const double d = now - before;
        if (d == 0) continue;
        p.x[j] = now;
        column_add(a, j, d, p.u);
        changes += at_corner(j, before) != at_corner(j, now);
        const double moved = curvature * __builtin_fabs(d);
        largest = moved > largest || moved != moved ? moved : largest;
    }
    arguments.to.status_changes += changes;
    return largest;
}

template <class T> double squares(const Columns<T>& a, int64_t j, const double* weight) {
    return column_squares(a, j, weight);
}

template <class T> double model_sweep(const ModelSweep<T>& arguments) {
    const Columns<T>& a = arguments.a;
    const ModelState& p = arguments.to;
    double largest = 0;
    for (int64_t k = 0; k < p.count; ++k) {
        const int64_t j = p.order[k];
        const double curvature = p.s.curvature[j], before = p.x[j];
        const double g = column_dot(a, j, p.r) + p.s.l2[j] * before;
        const double now = nearest(before - g / curvature, p.s.l1[j] / curvature, p.s.lower[j], p.s.upper[j]);
        const double d = now - before;
        if (d == 0) continue;
        p.x[j] = now;
        column_add_weighted(a, j, d, p.weight, p.r);
        const double moved = curvature * __builtin_fabs(d);
        largest = moved > largest || moved != moved ? moved : largest;
    }
    return largest;
}

void logistic(int64_t n, const double* z, const double* b, const double* weight, double* u) {
    constexpr int W = lanes<double>;
    for (int64_t i = 0; i < n; i += W) {
        vec<double> v = sigmoid<double>(load_up_to(z + i, n - i)) - load_up_to(b + i, n - i);
        if (weight) v *= load_up_to(weight + i, n - i);
        store_up_to(u + i, v, n - i);
    }
}

template <class T>
constexpr KernelsOf<T> kTable = {dot<T>,
                                 add<T>,
                                 products<T>,
                                 squares<T>,
                                 sweep<T>,
                                 model_sweep<T>,
                                 kaczmarz<T>,
                                 product<T>,
                                 transposed_product<T>,
                                 products_of<T>,
                                 lasso_sweep<T>,
                                 gram<T>,
                                 centred_squares<T>};

} // namespace

extern const Kernels kernels = {{kTable<float>, kTable<double>}, logistic, forest, losses, cholesky, solve_cholesky};

} // namespace fastiter::bcd::FASTITER_LEVEL
