// The packed matrices of fastiter._core. python/fastiter/decode/_pack.py has checked their arguments.
#include "core/arguments.hpp"
#include "decode/packed.hpp"
#include <memory>
#include <string>

namespace fastiter::decode {
namespace {

std::shared_ptr<PackedMatrix> matrix_of(const std::string& format, int64_t N, int64_t K, int64_t group, float scale) {
    for (int i = 0; i < kWeights; ++i) {
        if (format == kWeightNames[i]) return std::make_shared<PackedMatrix>(Weight(i), N, K, group, scale);
    }
    throw py::value_error("PackedMatrix: format must be one of Weight's, got " + format);
}

void pack_rows(PackedMatrix& w, int64_t first, int64_t count, py::handle codes, py::handle scales) {
    const auto *from = address<const void>(codes), *scales_from = address<const void>(scales);
    py::gil_scoped_release release;
    w.pack_rows(first, count, from, scales_from);
}

void unpack(const PackedMatrix& w, int64_t first, int64_t count, py::handle out) {
    void* to = address<void>(out);
    py::gil_scoped_release release;
    w.unpack(first, count, to);
}

void multiply(const PackedMatrix& w, int64_t M, py::handle x, int64_t stride, py::handle y) {
    const void* from = address<const void>(x);
    void* to = address<void>(y);
    py::gil_scoped_release release;
    w.multiply(M, from, stride, to);
}

} // namespace

void bind_packed(py::module_& m) {
    py::class_<PackedMatrix, std::shared_ptr<PackedMatrix>>(m, "PackedMatrix")
        .def(py::init(&matrix_of))
        .def_property_readonly("N", [](const PackedMatrix& w) { return w.view().N; })
        .def_property_readonly("K", [](const PackedMatrix& w) { return w.view().K; })
        .def_property_readonly("group", [](const PackedMatrix& w) { return w.view().group; })
        .def_property_readonly("scale", [](const PackedMatrix& w) { return w.view().scale; })
        .def_property_readonly("format", [](const PackedMatrix& w) { return kWeightNames[int(w.view().format)]; })
        .def_property_readonly("nbytes", &PackedMatrix::bytes)
        .def("pack_rows", pack_rows)
        .def("unpack_rows", unpack)
        .def("multiply", multiply);
}

} // namespace fastiter::decode
