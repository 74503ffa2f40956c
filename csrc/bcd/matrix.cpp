#include "bcd/matrix.hpp"

namespace fastiter::bcd {
namespace {

template <class T> class MatrixOf : public Matrix {
public:
    MatrixOf(const Columns<T>& a, const Rows<T>& rows) : a_(a), rows_(rows), k_(kernels().of<KernelsOf<T>>()) {
        n = a.n;
        m = a.m;
        start = a.start;
        row = a.row;
    }

    double dot(int64_t j, const double* u) const override { return k_.dot(a_, j, u); }
    void add(int64_t j, double d, double* z) const override { k_.add(a_, j, d, z); }
    void products(const double* u, double* g, int64_t stride) const override { k_.products(a_, u, g, stride); }

    void add_row(int64_t i, double d, double* g, int64_t stride) const override {
        for (int64_t e = rows_.start[i]; e < rows_.start[i + 1]; ++e)
            g[rows_.column[e] * stride] += d * double(rows_.value[e]);
    }

    double squares(int64_t j, const double* weight) const override { return k_.squares(a_, j, weight); }

    void squares(const double* weight, double* sums) const override {
        for (int64_t j = 0; j < m; ++j) sums[j] = k_.squares(a_, j, weight);
    }

    double sweep(ModelState& p) const override {
        ModelSweep<T> sweep{a_, p};
        return k_.model_sweep(sweep);
    }

    void kaczmarz(const KaczmarzState& p) const override { k_.kaczmarz(Kaczmarz<T>{a_, p}); }

    void products_of(const List& columns, const double* u, double* g) const override {
        k_.products_of(a_, columns.data(), int64_t(columns.size()), u, g);
    }

    void sweep(LassoState& p) const override { k_.lasso_sweep(LassoSweep<T>{a_, p}); }

    void gram(const GramState& p) const override { k_.gram(Gram<T>{a_, p}); }

    double centred_squares(int64_t j, double mean, const double* ones, double total) const override {
        return k_.centred_squares(a_, j, mean, ones, total);
    }

    double sweep(SweepState& p) const override {
        Sweep<T> sweep{a_, p};
        return k_.sweep(sweep);
    }

private:
    Columns<T> a_;
    Rows<T> rows_;
    const KernelsOf<T>& k_;
};

} // namespace

template <class T> std::unique_ptr<Matrix> matrix_of(const Columns<T>& columns, const Rows<T>& rows) {
    return std::make_unique<MatrixOf<T>>(columns, rows);
}
template std::unique_ptr<Matrix> matrix_of(const Columns<float>&, const Rows<float>&);
template std::unique_ptr<Matrix> matrix_of(const Columns<double>&, const Rows<double>&);

} // namespace fastiter::bcd
