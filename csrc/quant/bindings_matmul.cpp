// fastiter._core: fixed-point arithmetic on codes, and matrix products with a small-float accumulator. Their arguments
// are descriptions whose constructors take the fields in their order.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "quant/cpu/matmul/float_kernels.hpp"
#include "quant/fixed_matmul.hpp"
#include "quant/fixed_plan.hpp"
#include <algorithm>
#include <array>
#include <pybind11/stl.h>

namespace fastiter::quant {
namespace {

using Triple = std::array<int64_t, 3>;

Index3 index_of(Triple size, Triple stride) {
    Index3 x;
    std::copy(size.begin(), size.end(), x.size);
    std::copy(stride.begin(), stride.end(), x.stride);
    return x;
}

FixedCodes line_of(py::handle data, int bytes, bool is_signed, int width) {
    FixedCodes x;
    x.data = address<const void>(data);
    x.bytes = bytes;
    x.is_signed = is_signed;
    x.width = width;
    return x;
}

FixedCodes codes_of(py::handle data, int bytes, bool is_signed, int width, const Index3& item, const Index3& k) {
    FixedCodes x = line_of(data, bytes, is_signed, width);
    x.item = item;
    x.k = k;
    return x;
}

FixedTarget target_of(int width, bool is_signed, int rounding, int overflow, bool symmetric, int saturated_bits,
                      int64_t shift) {
    FixedTarget t;
    t.width = width;
    t.is_signed = is_signed;
    t.rounding = Rounding(rounding);
    t.overflow = Overflow(overflow);
    t.symmetric = symmetric;
    t.saturated_bits = saturated_bits;
    t.shift = shift;
    return t;
}

// The initial codes of an accumulator, with the strides of rows and columns
struct FixedStart {
    const int64_t* codes = nullptr;
    int64_t m = 0, n = 0;
};

FixedStart start_of(py::handle codes, int64_t m, int64_t n) { return {address<const int64_t>(codes), m, n}; }

struct FixedOutput {
    void* data = nullptr;
    int bytes = 1;
    Index3 m, n;
};

FixedOutput output_of(py::handle data, int bytes, const Index3& m, const Index3& n) {
    return {address<void>(data), bytes, m, n};
}

FixedBatch batch_of(int64_t count, py::handle a, py::handle b, py::handle out) {
    return {count, address<const int64_t>(a), address<const int64_t>(b), address<const int64_t>(out)};
}

// product, start: null if there are none
int fixed_matmul(const FixedCodes& a, const FixedCodes& b, const FixedTarget& acc, const FixedTarget* product,
                 int64_t every, const FixedStart* start, const FixedOutput& out, const FixedBatch& batch, int only) {
    FixedMatmul g;
    g.a = a;
    g.b = b;
    g.M = a.item.count();
    g.N = b.item.count();
    g.K = a.k.count();
    g.acc = acc;
    g.has_product = product != nullptr;
    if (product) g.product = *product;
    g.every = every;
    if (start) {
        g.start = start->codes;
        g.start_m = start->m;
        g.start_n = start->n;
    }
    g.out = out.data;
    g.out_bytes = out.bytes;
    g.out_m = out.m;
    g.out_n = out.n;
    py::gil_scoped_release release;
    return run_fixed_matmul(g, batch, FixedPath(only));
}

void fixed_convert(const FixedCodes& in, py::handle out, int out_bytes, int64_t n, const FixedTarget& to) {
    FixedConvert c;
    c.in = in.data;
    c.in_bytes = in.bytes;
    c.in_signed = in.is_signed;
    c.out = address<void>(out);
    c.out_bytes = out_bytes;
    c.n = n;
    c.target = to;
    c.is_narrow = converts_narrow(in, to);
    py::gil_scoped_release release;
    constexpr int64_t kSmall = 1 << 16;
    launch(fixed_kernels().convert, c, [&](int threads) { return c.n < kSmall ? 1 : threads; });
}

FloatAccumulator accumulator_of(int rounding, int mantissa, int min_exponent, double largest, double over, double under,
                                double infinite, bool has_minus_zero) {
    FloatAccumulator acc;
    acc.rounding = Rounding(rounding);
    acc.mantissa = mantissa;
    acc.min_exponent = min_exponent;
    acc.largest = largest;
    acc.over = over;
    acc.under = under;
    acc.infinite = infinite;
    acc.has_minus_zero = has_minus_zero;
    return acc;
}

// A matrix in memory, with the strides of rows and columns
struct Strided {
    void* data = nullptr;
    int64_t row = 0, column = 0;
};

Strided strided(py::handle data, int64_t row, int64_t column) { return {address<void>(data), row, column}; }

// c has unit column stride.
void matmul(int64_t M, int64_t N, int64_t K, bool in_double, const Strided& a, const Strided& b, const Strided& c,
            const FloatAccumulator& acc, int64_t every, int sums) {
    QuantMatmul g;
    g.M = M;
    g.N = N;
    g.K = K;
    g.in_double = in_double;
    g.a = a.data;
    g.a_m = a.row;
    g.a_k = a.column;
    g.b = b.data;
    g.b_k = b.row;
    g.b_n = b.column;
    g.c = c.data;
    g.c_m = c.row;
    g.acc = acc;
    g.every = every;
    g.sums = FloatSums(sums);
    py::gil_scoped_release release;
    constexpr double kSmall = 1e5; // steps that take about as long as starting a team
    launch(matmul_kernels().run, g, [&](int threads) {
        if (double(M) * double(N) * double(K) < kSmall) threads = 1;
        g.workspace = workspace.of(matmul_kernels().workspace(g, threads));
        return threads;
    });
}

} // namespace

// Descriptions of arrays do not keep them alive.
void bind_matmul(py::module_& m) {
    py::class_<Index3>(m, "Index3").def(py::init(&index_of));
    py::class_<FixedCodes>(m, "FixedCodes").def(py::init(&codes_of)).def(py::init(&line_of));
    py::class_<FixedTarget>(m, "FixedTarget").def(py::init(&target_of));
    py::class_<FixedStart>(m, "FixedStart").def(py::init(&start_of));
    py::class_<FixedOutput>(m, "FixedOutput").def(py::init(&output_of));
    py::class_<FixedBatch>(m, "FixedBatch").def(py::init(&batch_of));
    py::class_<Strided>(m, "Strided").def(py::init(&strided));
    py::class_<FloatAccumulator>(m, "FloatAccumulator").def(py::init(&accumulator_of));
    m.def("fixed_matmul", fixed_matmul);
    m.def("fixed_convert", fixed_convert);
    m.def("matmul", matmul);
}

} // namespace fastiter::quant
