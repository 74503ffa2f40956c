#include "quant/fixed_matmul.hpp"
#include "core/launch.hpp"
#include "quant/fixed_plan.hpp"
#include <algorithm>
#include <vector>

namespace fastiter::quant {
namespace {

// Number of threads worth using: a step takes from a hundredth of a nanosecond to ten nanoseconds.
int useful(int threads, const FixedMatmul& g) {
    const double steps = double(g.M) * double(g.N) * double(g.K);
    const double slow = g.plan.path == FixedPath::wide ? 500 : g.plan.path >= FixedPath::lines32 ? 20 : 1;
    constexpr double kSmall = 1e6;
    return steps * slow < kSmall ? 1 : threads;
}

void run_plan(FixedMatmul g) {
    launch(fixed_kernels().matmul, g, [&](int threads) {
        threads = useful(threads, g);
        g.workspace = workspace.of(fixed_kernels().workspace(g, threads));
        return threads;
    });
}

// Transposes the product if c has too few columns to fill the vectors, which run along the columns, and more rows.
FixedMatmul turned(FixedMatmul g) {
    constexpr int64_t kFull = 128; // columns of the widest panel
    if (g.N >= kFull || g.M <= g.N) return g;
    std::swap(g.M, g.N);
    std::swap(g.a, g.b);
    std::swap(g.start_m, g.start_n);
    std::swap(g.out_m, g.out_n);
    return g;
}

int bit(FixedPath path) { return 1 << int(path); }

int run_one(FixedMatmul g, FixedPath only) {
    std::vector<uint8_t> is_safe(size_t(g.M));
    const Safety safety =
        only == FixedPath::choose ? safe_rows(g, reinterpret_cast<bool*>(is_safe.data())) : Safety::no_row;
    if (safety != Safety::some_rows) {
        g.plan = choose_plan(g, only, safety == Safety::every_row);
        run_plan(g);
        return bit(g.plan.path);
    }
    int paths = 0;
    for (const bool safe : {true, false}) {
        std::vector<int64_t> rows;
        for (int64_t m = 0; m < g.M; ++m)
            if (bool(is_safe[size_t(m)]) == safe) rows.push_back(m);
        FixedMatmul part = g;
        part.rows = rows.data();
        part.M = int64_t(rows.size());
        part.plan = choose_plan(part, only, safe);
        run_plan(part);
        paths |= bit(part.plan.path);
    }
    return paths;
}

const void* moved(const FixedCodes& x, int64_t by) { return static_cast<const char*>(x.data) + by * x.bytes; }

} // namespace

int run_fixed_matmul(const FixedMatmul& whole, const FixedBatch& batch, FixedPath only) {
    int paths = 0;
    if (whole.M == 0 || whole.N == 0) return paths;
    for (int64_t i = 0; i < batch.count; ++i) {
        FixedMatmul g = whole;
        g.a.data = moved(g.a, batch.a[i]);
        g.b.data = moved(g.b, batch.b[i]);
        g.out = static_cast<char*>(g.out) + batch.out[i] * g.out_bytes;
        paths |= run_one(turned(g), only);
    }
    return paths;
}

} // namespace fastiter::quant
