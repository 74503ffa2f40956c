// The `quant` functions of fastiter._core. python/fastiter/quant/_plan.py defines a format's numbers.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "quant/cpu/matmul/fixed_kernels.hpp"
#include "quant/cpu/matmul/float_kernels.hpp"
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

namespace fastiter::quant {

// Defined in bindings_matmul.cpp
void bind_matmul(py::module_& m);

namespace {

// Reads the fields of a tuple in sequence.
class Fields {
public:
    explicit Fields(const py::tuple& from) : from_(from) {}
    bool empty() const { return from_.empty(); }
    py::tuple tuple() { return py::reinterpret_borrow<py::tuple>(next()); }
    template <class... All> void into(All&... out) { (read(out), ...); }

private:
    PyObject* next() { return PyTuple_GET_ITEM(from_.ptr(), at_++); }
    template <class I> void read(I& out) { out = I(integer(next())); }
    void read(bool& out) { out = integer(next()) != 0; }
    void read(uint64_t& out) { out = py::cast<uint64_t>(py::handle(next())); }
    void read(double& out) { out = py::cast<double>(py::handle(next())); }
    void read(const void*& out) { out = address<const void>(next()); }
    void read(void*& out) { out = address<void>(next()); }

    py::tuple from_;
    py::ssize_t at_ = 0;
};

constexpr int64_t kLeast = 1 << 15; // elements that are worth waking a thread

// Fields that the kind of format does not use are empty.
QuantFormat format_of(Fields from) {
    QuantFormat f;
    from.into(f.kind, f.rounding, f.overflow, f.nan, f.count, f.codes, f.to_odd);
    if (Fields x(from.tuple()); !x.empty()) {
        FixedPoint& p = f.fixed;
        x.into(p.to_code, p.from_code, p.least, p.most, p.low, p.high, p.width, p.fraction, p.saturated, p.is_signed,
               p.symmetric, p.divide);
    }
    if (Fields x(from.tuple()); !x.empty()) {
        SmallFloat& s = f.small;
        x.into(s.mantissa, s.min_exponent, s.bits, s.most, s.over, s.under, s.infinite, s.minus_infinite, s.negative,
               s.least, s.is_signed, s.has_zero, s.negative_zero, s.own_exponents, s.infinity_differs, s.nan_code,
               s.infinity_code);
    }
    if (Fields x(from.tuple()); !x.empty())
        x.into(f.block.size, f.block.max_exponent, f.block.carry_from, f.block.beyond, f.block.scale, f.block.scales);
    if (Fields x(from.tuple()); !x.empty()) x.into(f.table.thresholds, f.table.values, f.table.count);
    if (Fields x(from.tuple()); !x.empty()) x.into(f.posit.n, f.posit.es, f.posit.max_exponent);
    if (Fields x(from.tuple()); !x.empty()) x.into(f.powers.terms, f.powers.nearest);
    return f;
}

// scaling: () or (scale, zero_point, run, count, in_float). Returns the numbers of NaN, overflows and underflows.
py::tuple quantize(const py::tuple& format, const py::tuple& scaling, bool in_double, uint64_t seed, py::handle x,
                   int x_type, py::handle y, int y_type, int64_t lines, int64_t n) {
    QuantJob job;
    job.format = format_of(Fields(format));
    if (Fields s(scaling); !s.empty())
        s.into(job.scaling.scale, job.scaling.zero_point, job.scaling.run, job.scaling.count, job.scaling.in_float);
    job.in_double = in_double;
    job.seed = seed;
    job.x = address<const void>(x), job.x_type = Element(x_type);
    job.y = address<void>(y), job.y_type = Element(y_type);
    job.lines = lines, job.n = n;
    std::vector<QuantCounts> counts;
    {
        py::gil_scoped_release release;
        launch(kernels().run, job, [&](int threads) {
            threads = threads_for(lines * n, kLeast, threads);
            counts.assign(size_t(threads), {});
            job.counts = counts.data();
            return threads;
        });
    }
    QuantCounts sum;
    for (const QuantCounts& c : counts) sum.nan += c.nan, sum.overflow += c.overflow, sum.underflow += c.underflow;
    return py::make_tuple(sum.nan, sum.overflow, sum.underflow);
}

void pack(py::handle codes, int type, int bits, py::handle packed, int64_t lines, int64_t n, bool unpack,
          bool is_signed) {
    PackJob job;
    job.codes = address<void>(codes), job.type = Element(type), job.bits = bits;
    job.packed = address<uint8_t>(packed);
    job.lines = lines, job.n = n;
    job.unpack = unpack, job.is_signed = is_signed;
    py::gil_scoped_release release;
    launch(kernels().pack, job, [&](int threads) { return threads_for(lines * n, kLeast, threads); });
}

// Returns the sum of the gradient's parts, if requested; it does not depend on the number of threads.
double gradient(bool in_double, const py::object& limits, bool clip, py::handle dy, py::handle x, py::handle y,
                py::handle dx, int64_t n, bool sum) {
    QuantGradientJob job;
    job.in_double = in_double, job.n = n;
    job.limited = !limits.is_none(), job.clip = clip;
    if (job.limited) std::tie(job.low, job.high) = py::cast<std::tuple<double, double>>(limits);
    job.dy = address<const void>(dy), job.x = address<const void>(x), job.y = address<const void>(y);
    job.dx = address<void>(dx);
    py::gil_scoped_release release;
    std::vector<double> sums(sum ? size_t((n + kGradientPart - 1) / kGradientPart) : 0);
    job.sums = sum ? sums.data() : nullptr;
    launch(kernels().gradient, job, [&](int threads) { return threads_for(n, kLeast, threads); });
    double total = 0;
    for (double part : sums) total += part;
    return total;
}

// n and `first` are multiples of 64.
void random_words(uint64_t seed, uint64_t first, int64_t n, py::handle words) {
    kernels().random(seed, first, n, address<uint32_t>(words));
}

// The members of an enumeration, "a, b, c", as a types.SimpleNamespace of their values
py::object numbers_of(const char* members) {
    py::dict numbers;
    std::istringstream text(members);
    int number = 0;
    for (std::string name; std::getline(text >> std::ws, name, ',');) numbers[name.c_str()] = number++;
    return py::module_::import("types").attr("SimpleNamespace")(**numbers);
}

} // namespace

void bind(py::module_& m) {
    m.attr("kind") = numbers_of(kKindMembers);
    m.attr("rounding") = numbers_of(kRoundingMembers);
    m.attr("overflow") = numbers_of(kOverflowMembers);
    m.attr("element") = numbers_of(kElementMembers);
    m.attr("fixed_path") = numbers_of(kFixedPathMembers);
    m.attr("float_sums") = numbers_of(kFloatSumsMembers);
    m.def("quantize", quantize);
    m.def("pack_codes", pack);
    m.def("random_words", random_words);
    m.def("gradient", gradient);
    bind_matmul(m);
}

} // namespace fastiter::quant
