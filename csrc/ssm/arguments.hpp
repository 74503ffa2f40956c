// Argument conversions shared by the bindings of the family.
#pragma once
#include "core/arguments.hpp"
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm {

inline Storage storage_of(const Array& x) {
    if (x.bits() == 64) return Storage::f64;
    if (x.bits() == 32) return Storage::f32;
    return x.dl().dtype.code == kDLBfloat ? Storage::bf16 : Storage::f16;
}

// (row, channel, time); None is null.
inline Signal signal(py::handle x) {
    if (x.is_none()) return {};
    const Array array(x.ptr());
    return {array.data<void>(), array.stride(0), array.stride(1), array.stride(2), storage_of(array)};
}

// (sequences, T, lengths, starts, reset (B, T) or (T,))
inline Sequences sequences(PyObject* x) {
    auto at = [&](int i) { return PyTuple_GET_ITEM(x, i); };
    Sequences s;
    s.count = integer(at(0));
    s.T = integer(at(1));
    s.lengths = address<const int64_t>(at(2));
    s.starts = address<const int64_t>(at(3));
    if (at(4) != Py_None) {
        const Array reset(at(4));
        s.reset = reset.data<const uint8_t>();
        s.reset_row = reset.ndim() == 2 ? reset.stride(0) : 0;
        s.reset_time = reset.stride(-1);
    }
    return s;
}

} // namespace fastiter::ssm
