// The family `quant` in fastiter._core. What a format's numbers mean: python/fastiter/quant/_plan.py.
#include "bindings.hpp"
#include "quant.hpp"

namespace fastiter {
namespace {

// The fields of a tuple one after the other
class Fields {
public:
    explicit Fields(const py::tuple& from) : from_(from.ptr()) {}
    PyObject* next() { return PyTuple_GET_ITEM(from_, at_++); }
    template <class I> void into(I& out) { out = I(integer(next())); }
    void into(bool& out) { out = integer(next()) != 0; }
    void into(double& out) { out = py::cast<double>(py::handle(next())); }
    template <class... All> void all(All&... out) { (into(out), ...); }
    py::tuple tuple() { return py::reinterpret_borrow<py::tuple>(next()); }

private:
    PyObject* from_;
    py::ssize_t at_ = 0;
};

void read_fixed(Fields from, FixedPoint& p) {
    from.all(p.to_code, p.from_code, p.low, p.high, p.width, p.fraction, p.saturated, p.is_signed, p.symmetric,
             p.divide, p.wrapping);
}

QuantFormat format_of(Fields from) {
    QuantFormat f;
    from.all(f.kind, f.rounding, f.overflow, f.nan, f.codes, f.to_odd);
    read_fixed(Fields(from.tuple()), f.fixed);
    return f;
}

// (format, in_double, seed, x, x_type, y, y_type, n) -> (NaN, overflow, underflow)
py::tuple quantize(const py::tuple& format, bool in_double, uint64_t seed, py::handle x, int x_type, py::handle y,
                   int y_type, int64_t n) {
    QuantJob job;
    job.format = format_of(Fields(format));
    job.in_double = in_double;
    job.seed = seed;
    job.x = address<const void>(x), job.x_type = Element(x_type);
    job.y = address<void>(y), job.y_type = Element(y_type);
    job.n = n;
    QuantCounts counts;
    {
        py::gil_scoped_release release;
        counts = run_quant(job);
    }
    return py::make_tuple(counts.nan, counts.overflow, counts.underflow);
}

} // namespace

void define_quant(py::module_& m) { m.def("quantize", quantize); }

} // namespace fastiter
