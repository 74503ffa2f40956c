// Arrays for the bindings: NumPy arrays, and torch tensors without linking to torch. The C functions that torch.Tensor
// exports as __dlpack_c_exchange_api__ read and create tensors in a fraction of the time that Python takes.
#pragma once
#include "core/cpu/bf16.hpp"
#include "core/cpu/by_type.hpp"
#include "third_party/dlpack.h"
#include <cstdint>
#include <initializer_list>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace fastiter {

// Registers torch's DLPack API and the tensor types that `read` accepts; subclasses are excluded there, as they may
// redefine ops. Returns whether the DLPack version is supported.
bool use_tensors(py::object api, py::object tensor_type, py::object parameter_type);

// Whether all tensors among the arguments, and in their lists and tuples, are in CPU memory that kernels can read: no
// subclasses, and no wrappers that a transform of torch.func has left behind.
bool are_ordinary(const py::tuple& arguments);

// An array's memory, shape and strides. Strides count elements. The Python object has to outlive it.
class Array {
public:
    Array() = default;
    // An ndarray or a CPU tensor of any dtype, including subclasses; TypeError for anything else
    explicit Array(PyObject* x);
    // Reads a plain, dense CPU tensor of float32, float64 or bfloat16; false: x is something else.
    bool read(PyObject* x);
    bool read_integers(PyObject* x); // the same for int64
    bool read_flags(PyObject* x);    // the same for bool

    int ndim() const { return t_.ndim; }
    bool is_complex() const { return t_.dtype.code == kDLComplex; }
    int bits() const { return t_.dtype.bits; } // per element
    int real_bits() const { return is_complex() ? bits() / 2 : bits(); }
    int64_t size(int axis) const { return t_.shape[axis < 0 ? t_.ndim + axis : axis]; }
    int64_t stride(int axis) const {
        const int64_t stride = t_.strides[axis < 0 ? t_.ndim + axis : axis];
        return unit_ == 1 ? stride : stride / unit_;
    }
    bool has_shape(std::initializer_list<int64_t> shape) const;
    bool is_empty() const;
    size_t bytes() const; // size of the elements
    bool is_contiguous() const;
    bool has_unit_stride() const { return stride(-1) == 1 || size(-1) == 1 || is_empty(); }
    template <class T> T* data() const { return reinterpret_cast<T*>(static_cast<char*>(t_.data) + t_.byte_offset); }
    const DLTensor& dl() const { return t_; }

private:
    bool read_tensor(PyObject* x); // a CPU tensor of any dtype, not a subclass

    DLTensor t_{};
    int64_t unit_ = 1; // unit of the strides: ndarray strides count bytes
};

constexpr int kMaxAxes = 6; // the most axes of a new tensor

// An uninitialised contiguous tensor of the dtype of `like`
py::object new_tensor(const Array& like, std::initializer_list<int64_t> shape);
// The same with the shape of `like`, which has at most kMaxAxes axes
py::object new_tensor(const Array& like);
// The same with another last axis
py::object new_tensor_of_width(const Array& like, int64_t width);
// A dense tensor of the dtype with `bits`, its axes in the given memory order, outermost first. Large tensors reuse
// memory.
py::object new_tensor(const Array& like, std::initializer_list<int64_t> shape, int bits,
                      std::initializer_list<int> order);

// Calls f.template operator()<T>() with T = float or double for real numbers of 32 or 64 bits.
template <class F> auto with_float(int bits, F f) { return with_size<float, double>(bits / 8, f); }

// The same with bf16 for 16 bits
template <class F> auto with_storage(int bits, F f) { return with_size<bf16, float, double>(bits / 8, f); }

} // namespace fastiter
