// The `quant` functions of fastiter._core. python/fastiter/quant/_formats/plan.py defines a format's numbers.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "quant/cpu/matmul/fixed_kernels.hpp"
#include "quant/cpu/matmul/float_kernels.hpp"
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastiter::quant {

// Defined in bindings_matmul.cpp
void bind_matmul(py::module_& m);

namespace {

// A part of a plan (python/fastiter/quant/_formats/plan.py), whose fields are read by their names; parts that the kind
// of format does not use are None.
class Part {
public:
    explicit Part(py::object from) : from_(std::move(from)) {}
    bool empty() const { return from_.is_none(); }
    Part part(const char* name) const { return Part(from_.attr(name)); }
    template <class T> void read(const char* name, T& out) const {
        if constexpr (std::is_enum_v<T>)
            out = T(py::cast<int>(from_.attr(name)));
        else if constexpr (std::is_same_v<T, const void*>)
            out = address<const void>(py::object(from_.attr(name)));
        else
            out = py::cast<T>(from_.attr(name));
    }

private:
    py::object from_;
};

constexpr int64_t kMinElements = 1 << 15; // elements that are worth waking a thread

void read(const Part& from, FixedPoint& p) {
    from.read("to_code", p.to_code);
    from.read("from_code", p.from_code);
    from.read("lowest", p.lowest);
    from.read("highest", p.highest);
    from.read("low", p.low);
    from.read("high", p.high);
    from.read("width", p.width);
    from.read("fraction", p.fraction);
    from.read("saturated", p.saturated);
    from.read("is_signed", p.is_signed);
    from.read("symmetric", p.symmetric);
}

void read(const Part& from, SmallFloat& s) {
    from.read("mantissa", s.mantissa);
    from.read("min_exponent", s.min_exponent);
    from.read("bits", s.bits);
    from.read("largest", s.largest);
    from.read("over", s.over);
    from.read("under", s.under);
    from.read("infinite", s.infinite);
    from.read("minus_infinite", s.minus_infinite);
    from.read("negative", s.negative);
    from.read("smallest", s.smallest);
    from.read("is_signed", s.is_signed);
    from.read("has_zero", s.has_zero);
    from.read("negative_zero", s.negative_zero);
    from.read("own_exponents", s.own_exponents);
    from.read("infinity_differs", s.infinity_differs);
    from.read("nan_code", s.nan_code);
    from.read("infinity_code", s.infinity_code);
}

void read(const Part& from, Blocks& b) {
    from.read("size", b.size);
    from.read("max_exponent", b.max_exponent);
    from.read("carry_from", b.carry_from);
    from.read("beyond", b.beyond);
}

void read(const Part& from, TableOfNumbers& t) {
    from.read("thresholds", t.thresholds);
    from.read("values", t.values);
    from.read("count", t.count);
}

void read(const Part& from, PositShape& p) {
    from.read("n", p.n);
    from.read("es", p.es);
    from.read("max_exponent", p.max_exponent);
}

void read(const Part& from, PowersShape& p) {
    from.read("terms", p.terms);
    from.read("nearest", p.nearest);
}

// A plan as the kernels read it: made once for each format, dtype and kind of result
struct Format {
    QuantFormat format;
    bool in_double = false;
    bool affine = false; // with one scale, codes are relative to the zero point and count multiples of the scale

    Format(const py::object& plan, bool codes) {
        const Part from(plan);
        from.read("kind", format.kind);
        from.read("rounding", format.rounding);
        from.read("overflow", format.overflow);
        from.read("to_odd", format.to_odd);
        from.read("in_double", in_double);
        from.read("affine", affine);
        format.codes = codes;
        read_part(from.part("fixed"), format.fixed);
        read_part(from.part("small"), format.small);
        read_part(from.part("block"), format.block);
        read_part(from.part("table"), format.table);
        read_part(from.part("posit"), format.posit);
        read_part(from.part("powers"), format.powers);
    }

private:
    template <class T> static void read_part(const Part& from, T& out) {
        if (!from.empty()) read(from, out);
    }
};

// The scales of a call: one number with a zero point, or arrays of the type of the computation
struct Scales {
    bool is_one = true;
    double scale = 1, zero_point = 0;
    py::object scales, zero_points;
    int64_t run = 1, count = 1;
    bool in_float = false;

    Scales(double scale, double zero_point, bool in_float) : scale(scale), zero_point(zero_point), in_float(in_float) {}
    Scales(py::object scales, py::object zero_points, int64_t run, int64_t count, bool in_float)
        : is_one(false), scales(std::move(scales)), zero_points(std::move(zero_points)), run(run), count(count),
          in_float(in_float) {}
};

// Prepares a job for the scales of a call; `one` has the number where the kernel reads an array.
struct OneScale {
    float in_float = 1;
    double in_double = 1;
};

void set_scales(const Format& from, const Scales& scales, QuantJob& job, OneScale& one) {
    QuantFormat& f = job.format;
    if (f.kind == Kind::nvfp4) {
        f.block.scale = scales.scale;
        return;
    }
    job.scaling.in_float = scales.in_float;
    if (!scales.is_one) {
        job.scaling.scale = address<const void>(scales.scales);
        if (!scales.zero_points.is_none()) job.scaling.zero_point = address<const void>(scales.zero_points);
        job.scaling.run = scales.run;
        job.scaling.count = scales.count;
        return;
    }
    if (from.affine) {
        FixedPoint& p = f.fixed;
        p.divide = true;
        p.to_code = scales.scale;
        p.from_code = f.codes ? 1 : scales.scale;
        p.lowest -= scales.zero_point;
        p.highest -= scales.zero_point;
        p.low -= scales.zero_point;
        p.high -= scales.zero_point;
        return;
    }
    one = {float(scales.scale), scales.scale};
    job.scaling.scale = from.in_double ? static_cast<const void*>(&one.in_double) : &one.in_float;
}

// nan: replaces NaN, or a NaN. scales: Scales or None. block_scales: the address of their output, or 0. Returns the
// numbers of NaN, overflows and underflows.
py::tuple quantize(const Format& format, const Scales* scales, double nan, bool count, uint64_t seed,
                   py::handle block_scales, py::handle x, int x_type, py::handle y, int y_type, int64_t lines,
                   int64_t n) {
    QuantJob job;
    OneScale one;
    job.format = format.format;
    job.format.nan = nan;
    job.format.count = count;
    job.format.block.scales = address<void>(block_scales);
    job.in_double = format.in_double;
    if (scales) set_scales(format, *scales, job, one);
    job.seed = seed;
    job.x = address<const void>(x);
    job.x_type = Element(x_type);
    job.y = address<void>(y);
    job.y_type = Element(y_type);
    job.lines = lines;
    job.n = n;
    std::vector<QuantCounts> counts;
    {
        py::gil_scoped_release release;
        launch(kernels().run, job, [&](int threads) {
            threads = threads_for(lines * n, kMinElements, threads);
            counts.assign(size_t(threads), {});
            job.counts = counts.data();
            return threads;
        });
    }
    QuantCounts sum;
    for (const QuantCounts& c : counts) {
        sum.nan += c.nan;
        sum.overflow += c.overflow;
        sum.underflow += c.underflow;
    }
    return py::make_tuple(sum.nan, sum.overflow, sum.underflow);
}

void pack(py::handle codes, int type, int bits, py::handle packed, int64_t lines, int64_t n, bool unpack,
          bool is_signed) {
    PackJob job;
    job.codes = address<void>(codes);
    job.type = Element(type);
    job.bits = bits;
    job.packed = address<uint8_t>(packed);
    job.lines = lines;
    job.n = n;
    job.unpack = unpack;
    job.is_signed = is_signed;
    py::gil_scoped_release release;
    launch(kernels().pack, job, [&](int threads) { return threads_for(lines * n, kMinElements, threads); });
}

// Returns the sum of the gradient's parts, if requested; it does not depend on the number of threads.
double gradient(bool in_double, const py::object& limits, bool clip, py::handle dy, py::handle x, py::handle y,
                py::handle dx, int64_t n, bool sum) {
    QuantGradientJob job;
    job.in_double = in_double;
    job.n = n;
    job.limited = !limits.is_none();
    job.clip = clip;
    if (job.limited) std::tie(job.low, job.high) = py::cast<std::tuple<double, double>>(limits);
    job.dy = address<const void>(dy);
    job.x = address<const void>(x);
    job.y = address<const void>(y);
    job.dx = address<void>(dx);
    py::gil_scoped_release release;
    std::vector<double> sums(sum ? size_t((n + kGradientPart - 1) / kGradientPart) : 0);
    job.sums = sum ? sums.data() : nullptr;
    launch(kernels().gradient, job, [&](int threads) { return threads_for(n, kMinElements, threads); });
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
    py::class_<Format>(m, "Format")
        .def(py::init<const py::object&, bool>(), py::keep_alive<1, 2>()) // keeps the arrays of tables alive
        .def_readonly("in_double", &Format::in_double);
    py::class_<Scales>(m, "Scales")
        .def(py::init<double, double, bool>())
        .def(py::init<py::object, py::object, int64_t, int64_t, bool>());
    m.def("quantize", quantize);
    m.def("pack_codes", pack);
    m.def("random_words", random_words);
    m.def("gradient", gradient);
    bind_matmul(m);
}

} // namespace fastiter::quant
