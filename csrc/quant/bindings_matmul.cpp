// fastiter._core: fixed-point arithmetic on codes, and matrix products with a small-float accumulator. Arguments are in
// the order of the fields.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "quant/cpu/matmul/float_kernels.hpp"
#include "quant/fixed_matmul.hpp"
#include "quant/fixed_plan.hpp"

namespace fastiter::quant {
namespace {

PyObject* at(const py::handle& tuple, int i) { return PyTuple_GET_ITEM(tuple.ptr(), i); }

// ((size, size, size), (stride, stride, stride)), strides in elements
Index3 index(PyObject* x) {
    Index3 out;
    for (int i = 0; i < 3; ++i) {
        out.size[i] = integer(PyTuple_GET_ITEM(PyTuple_GET_ITEM(x, 0), i));
        out.stride[i] = integer(PyTuple_GET_ITEM(PyTuple_GET_ITEM(x, 1), i));
    }
    return out;
}

// (address, bytes, signed, width, item, k)
FixedCodes codes(const py::tuple& x) {
    FixedCodes c;
    c.data = address<const void>(at(x, 0));
    c.bytes = int(integer(at(x, 1)));
    c.is_signed = integer(at(x, 2)) != 0;
    c.width = int(integer(at(x, 3)));
    c.item = index(at(x, 4));
    c.k = index(at(x, 5));
    return c;
}

// (width, signed, rounding, overflow, symmetric, saturated_bits, shift)
FixedTarget target(const py::tuple& x) {
    FixedTarget t;
    t.width = int(integer(at(x, 0)));
    t.is_signed = integer(at(x, 1)) != 0;
    t.rounding = Rounding(integer(at(x, 2)));
    t.overflow = Overflow(integer(at(x, 3)));
    t.symmetric = integer(at(x, 4)) != 0;
    t.saturated_bits = int(integer(at(x, 5)));
    t.shift = integer(at(x, 6));
    return t;
}

// a, b; acc, product (or ()), every; start: () or (address, m, n); out: (address, bytes, m, n); batch: (count, a, b,
// out)
int matmul(const py::tuple& a, const py::tuple& b, const py::tuple& acc, const py::tuple& product, int64_t every,
           const py::tuple& start, const py::tuple& out, const py::tuple& batch, int only) {
    FixedMatmul g;
    g.a = codes(a), g.b = codes(b);
    g.M = g.a.item.count(), g.N = g.b.item.count(), g.K = g.a.k.count();
    g.acc = target(acc);
    g.has_product = !product.empty();
    if (g.has_product) g.product = target(product);
    g.every = every;
    if (!start.empty()) {
        g.start = address<const int64_t>(at(start, 0));
        g.start_m = integer(at(start, 1)), g.start_n = integer(at(start, 2));
    }
    g.out = address<void>(at(out, 0));
    g.out_bytes = int(integer(at(out, 1)));
    g.out_m = index(at(out, 2)), g.out_n = index(at(out, 3));
    FixedBatch batches;
    batches.count = integer(at(batch, 0));
    batches.a = address<const int64_t>(at(batch, 1)), batches.b = address<const int64_t>(at(batch, 2));
    batches.out = address<const int64_t>(at(batch, 3));
    py::gil_scoped_release release;
    return run_fixed_matmul(g, batches, FixedPath(only));
}

// in: (address, bytes, signed, width); out: (address, bytes)
void convert(const py::tuple& in, const py::tuple& out, int64_t n, const py::tuple& to) {
    FixedConvert c;
    c.in = address<const void>(at(in, 0));
    c.in_bytes = int(integer(at(in, 1)));
    c.in_signed = integer(at(in, 2)) != 0;
    FixedCodes codes;
    codes.width = int(integer(at(in, 3))), codes.is_signed = c.in_signed;
    c.out = address<void>(at(out, 0));
    c.out_bytes = int(integer(at(out, 1)));
    c.n = n;
    c.target = target(to);
    c.is_narrow = converts_narrow(codes, c.target);
    py::gil_scoped_release release;
    constexpr int64_t kSmall = 1 << 16;
    launch(fixed_kernels().convert, c, [&](int threads) { return c.n < kSmall ? 1 : threads; });
}

// a: (address, m, k), b: (address, k, n), c: (address, m): addresses and strides;
// acc: (rounding, mantissa, min_exponent, most, over, under, infinite, has_minus_zero)
void quant_matmul(int64_t M, int64_t N, int64_t K, bool in_double, const py::tuple& a, const py::tuple& b,
                  const py::tuple& c, const py::tuple& acc, int64_t every, int sums) {
    QuantMatmul g;
    g.M = M, g.N = N, g.K = K;
    g.in_double = in_double;
    g.a = address<const void>(at(a, 0)), g.a_m = integer(at(a, 1)), g.a_k = integer(at(a, 2));
    g.b = address<const void>(at(b, 0)), g.b_k = integer(at(b, 1)), g.b_n = integer(at(b, 2));
    g.c = address<void>(at(c, 0)), g.c_m = integer(at(c, 1));
    g.acc.rounding = Rounding(integer(at(acc, 0)));
    g.acc.mantissa = int(integer(at(acc, 1))), g.acc.min_exponent = int(integer(at(acc, 2)));
    auto number = [&](int i) { return py::cast<double>(py::handle(at(acc, i))); };
    g.acc.most = number(3), g.acc.over = number(4), g.acc.under = number(5), g.acc.infinite = number(6);
    g.acc.has_minus_zero = integer(at(acc, 7)) != 0;
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

void bind_matmul(py::module_& m) {
    m.def("fixed_matmul", matmul);
    m.def("fixed_convert", convert);
    m.def("matmul", quant_matmul);
}

} // namespace fastiter::quant
