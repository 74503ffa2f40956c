#include "mdp/project.hpp"
#include "core/launch.hpp"
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

namespace fastiter::mdp {
namespace {

constexpr int64_t kMinAtoms = 1 << 12; // numbers per thread

template <class F> void for_lines(int64_t n, int64_t work, F f) {
    launch(
        [&](Team team) {
            for (int64_t i = n * team.id / team.size; i < n * (team.id + 1) / team.size; ++i) f(i);
        },
        [&](int threads) { return threads_for(n * work, kMinAtoms, threads); });
}

} // namespace

void project_categorical(int64_t n, int64_t k, const double* p, const double* x, int64_t m, const double* z,
                         double* out) {
    for_lines(n, k, [&](int64_t i) {
        double* to = out + i * m;
        std::fill_n(to, m, 0.0);
        for (int64_t j = i * k; j < (i + 1) * k; ++j) {
            const int64_t above = std::lower_bound(z, z + m, x[j]) - z;
            if (above == 0 || above == m) {
                to[above == 0 ? 0 : m - 1] += p[j];
                continue;
            }
            const double share = (x[j] - z[above - 1]) / (z[above] - z[above - 1]);
            to[above - 1] += (1 - share) * p[j];
            to[above] += share * p[j];
        }
    });
}

void project_quantile(int64_t n, int64_t k, const double* p, const double* x, int64_t m, double* out) {
    for_lines(n, k, [&](int64_t i) {
        std::vector<int64_t> order(static_cast<size_t>(k));
        std::iota(order.begin(), order.end(), i * k);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x[a] < x[b]; });
        double total = 0;
        for (int64_t j = i * k; j < (i + 1) * k; ++j) total += p[j];
        size_t at = 0;
        double left = k ? p[order[0]] : 0, top = 0;
        for (int64_t part = 0; part < m; ++part) {
            // The last part takes all remaining mass, so that rounding in a part never shifts mass from one outcome to
            // another.
            double wanted = part + 1 == m ? std::numeric_limits<double>::infinity() : total / double(m);
            double sum = 0, taken = 0;
            while (wanted > 0 && at < order.size()) {
                const double now = std::min(left, wanted);
                if (now > 0) top = x[order[at]];
                sum += now * x[order[at]];
                taken += now;
                wanted -= now;
                left -= now;
                if (left <= 0 && ++at < order.size()) left = p[order[at]];
            }
            out[i * m + part] = taken > 0 ? sum / taken : top;
        }
    });
}

} // namespace fastiter::mdp
