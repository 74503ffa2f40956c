#include "bcd/factor.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <limits>
#include <vector>

namespace fastiter::bcd {
namespace {

constexpr int64_t kProducts = 1 << 17; // multiplications that leave a thread enough to do

template <class T> class FactorOf : public Factor {
public:
    explicit FactorOf(const Product<T>& form) : form_(form), k_(kernels().of<KernelsOf<T>>()) {
        if (form.start && form.classes > 1) {
            work_.resize(size_t(form.n * form.classes));
            form_.work = work_.data();
        }
    }

    double epsilon() const override { return double(std::numeric_limits<T>::epsilon()); }
    void product(const double* in, double* out) override { run(k_.product, in, out); }
    void transposed(const double* in, double* out) override { run(k_.transposed_product, in, out); }

    void moments(const double* weight, const double* mean, double* first, double* second) const override {
        if (!form_.start) {
            const Columns<T> columns{form_.n, form_.m, nullptr, nullptr, form_.value};
            for (int64_t j = 0; j < form_.m; ++j) {
                first[j] = k_.dot(columns, j, weight);
                second[j] = k_.squares(columns, j, weight);
            }
            return;
        }
        double total = 0;
        for (int64_t i = 0; i < form_.n; ++i) total += weight[i];
        std::vector<double> rest(size_t(form_.m), total);
        std::vector<int64_t> absent(size_t(form_.m), form_.n);
        std::fill(first, first + form_.m, 0.0);
        std::fill(second, second + form_.m, 0.0);
        for (int64_t l = 0; l < (form_.by_rows ? form_.n : form_.m); ++l)
            for (int64_t e = form_.start[l]; e < form_.start[l + 1]; ++e) {
                const int64_t i = form_.by_rows ? l : form_.index[e], j = form_.by_rows ? form_.index[e] : l;
                const double a = double(form_.value[e]) - (mean ? mean[j] : 0);
                first[j] += weight[i] * a;
                second[j] += weight[i] * a * a;
                rest[size_t(j)] -= weight[i];
                --absent[size_t(j)];
            }
        for (int64_t j = 0; j < form_.m && mean; ++j) {
            const double zeros = absent[size_t(j)] > 0 ? std::max(rest[size_t(j)], 0.0) : 0;
            first[j] -= zeros * mean[j];
            second[j] += zeros * mean[j] * mean[j];
        }
    }

private:
    void run(void (*kernel)(const Product<T>&, Team), const double* in, double* out) {
        form_.in = in;
        form_.out = out;
        const int64_t entries = form_.start ? form_.start[form_.by_rows ? form_.n : form_.m] : form_.n * form_.m;
        launch(kernel, form_, [&](int threads) { return threads_for(entries * form_.classes, kProducts, threads); });
    }

    Product<T> form_;
    std::vector<double> work_;
    const KernelsOf<T>& k_;
};

} // namespace

template <class T> std::unique_ptr<Factor> factor_of(const Product<T>& form) {
    return std::make_unique<FactorOf<T>>(form);
}
template std::unique_ptr<Factor> factor_of(const Product<float>&);
template std::unique_ptr<Factor> factor_of(const Product<double>&);

} // namespace fastiter::bcd
