#include "core/arrays.hpp"
#include "core/memory.hpp"
#include <algorithm>
#include <pybind11/numpy.h>
#include <string>

namespace fastiter {
namespace {

const DLPackExchangeAPI* api = nullptr;
PyTypeObject *tensor = nullptr, *parameter = nullptr;
PyObject* is_neg = nullptr; // interned name

bool is_plain(PyObject* x) { return Py_TYPE(x) == tensor || Py_TYPE(x) == parameter; }

bool is_readable(PyObject* x, DLTensor& read) {
    if (api->dltensor_from_py_object_no_sync(x, &read) == 0) return true;
    PyErr_Clear();
    return false;
}

void set_error(void*, const char*, const char* message) {
    py::gil_scoped_acquire gil;
    PyErr_SetString(PyExc_RuntimeError, message);
}

// A tensor may be a lazily negated view in torch, which DLPack does not report.
bool is_negated(PyObject* x) {
    PyObject* answer = PyObject_CallMethodNoArgs(x, is_neg);
    if (!answer) throw py::error_already_set();
    const bool negated = answer != Py_False;
    Py_DECREF(answer);
    return negated;
}

constexpr int64_t kLarge = 1 << 20; // bytes; larger blocks are reused, as in python/fastiter/_torch/ops.py

// Shape and strides of a dense array
struct Places {
    int ndim;
    int64_t shape[kMaxAxes], strides[kMaxAxes], count = 1;

    // order: axes in memory order, outermost first; nullptr: in their own order
    Places(const int64_t* sizes, int axes, const int* order = nullptr) : ndim(axes) {
        std::copy(sizes, sizes + axes, shape);
        for (int i = ndim - 1; i >= 0; --i) {
            const int axis = order ? order[i] : i;
            strides[axis] = std::max<int64_t>(count, 1);
            count *= shape[axis];
        }
    }
    explicit Places(std::initializer_list<int64_t> sizes, const int* order = nullptr)
        : Places(sizes.begin(), int(sizes.size()), order) {}
};

// A tensor and its memory
struct Owned {
    DLManagedTensorVersioned managed;
    Block<> block;
};

DLManagedTensorVersioned* from_blocks(const DLTensor& prototype, int64_t bytes) {
    auto* owned = new Owned{{}, Block(bytes)};
    DLManagedTensorVersioned& managed = owned->managed;
    managed.version = api->header.version;
    managed.manager_ctx = owned;
    managed.deleter = [](DLManagedTensorVersioned* m) { delete static_cast<Owned*>(m->manager_ctx); };
    managed.dl_tensor = prototype;
    managed.dl_tensor.data = owned->block.data();
    managed.dl_tensor.byte_offset = 0;
    return &managed;
}

DLManagedTensorVersioned* from_torch(DLTensor prototype, int64_t count) {
    prototype.ndim = 1;
    prototype.shape = &count;
    prototype.strides = nullptr;
    DLManagedTensorVersioned* managed = nullptr;
    if (api->managed_tensor_allocator(&prototype, &managed, nullptr, set_error) != 0) throw py::error_already_set();
    return managed;
}

bool all_ordinary(PyObject* items) { // a list or a tuple
    PyObject* const* first = PySequence_Fast_ITEMS(items);
    return std::all_of(first, first + PySequence_Fast_GET_SIZE(items), [](PyObject* x) {
        DLTensor read;
        if (is_plain(x)) return is_readable(x, read) && read.device.device_type == kDLCPU;
        if (PyList_CheckExact(x) || PyTuple_CheckExact(x)) return all_ordinary(x);
        return !PyObject_TypeCheck(x, tensor);
    });
}

py::object new_tensor(const Array& like, Places places, int bits) {
    DLTensor prototype = like.dl();
    prototype.dtype = {uint8_t(bits == 16 ? kDLBfloat : kDLFloat), uint8_t(bits), 1};
    const int64_t bytes = places.count * bits / 8;
    DLManagedTensorVersioned* managed =
        bytes >= kLarge ? from_blocks(prototype, bytes) : from_torch(prototype, places.count);
    managed->dl_tensor.ndim = places.ndim;
    managed->dl_tensor.shape = places.shape; // only read during import
    managed->dl_tensor.strides = places.strides;
    void* object = nullptr;
    if (api->managed_tensor_to_py_object_no_sync(managed, &object) != 0) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

} // namespace

bool are_ordinary(const py::tuple& arguments) { return api && all_ordinary(arguments.ptr()); }

bool use_tensors(py::object capsule, py::object tensor_type, py::object parameter_type) {
    const auto* offered =
        static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!offered) throw py::error_already_set();
    if (offered->header.version.major != 1) return false;
    api = offered;
    tensor = reinterpret_cast<PyTypeObject*>(tensor_type.release().ptr()); // types live as long as the process
    parameter = reinterpret_cast<PyTypeObject*>(parameter_type.release().ptr());
    is_neg = PyUnicode_InternFromString("is_neg");
    return true;
}

Array::Array(PyObject* x) {
    if (py::isinstance<py::array>(x)) {
        const auto* array = py::detail::array_proxy(x);
        const auto dtype = py::reinterpret_borrow<py::array>(x).dtype();
        t_.data = array->data;
        t_.device.device_type = kDLCPU;
        t_.ndim = array->nd;
        // DLPack type codes are needed for complex numbers, and for bfloat16, whose NumPy kind is void. Python has
        // checked the dtype.
        t_.dtype = {uint8_t(dtype.kind() == 'c'   ? kDLComplex
                            : dtype.kind() == 'V' ? kDLBfloat
                                                  : kDLFloat),
                    uint8_t(8 * dtype.itemsize()), 1};
        t_.shape = reinterpret_cast<int64_t*>(array->dimensions);
        t_.strides = reinterpret_cast<int64_t*>(array->strides);
        unit_ = dtype.itemsize();
        return;
    }
    if (!api || !PyObject_TypeCheck(x, tensor))
        throw py::type_error(std::string("fastiter: expected an array, got ") + Py_TYPE(x)->tp_name);
    if (api->dltensor_from_py_object_no_sync(x, &t_) != 0) throw py::error_already_set();
    if (t_.device.device_type != kDLCPU) throw py::type_error("fastiter: expected a tensor on the CPU, got another");
}

bool Array::read_tensor(PyObject* x) {
    if (!api || !is_plain(x) || !is_readable(x, t_)) return false;
    return t_.dtype.lanes == 1 && t_.device.device_type == kDLCPU && t_.ndim > 0 && t_.strides && !is_negated(x);
}

bool Array::read(PyObject* x) {
    if (!read_tensor(x)) return false;
    return bits() == 16 ? t_.dtype.code == kDLBfloat : t_.dtype.code == kDLFloat && (bits() == 32 || bits() == 64);
}

bool Array::read_flags(PyObject* x) { return read_tensor(x) && t_.dtype.code == kDLBool && bits() == 8; }

bool Array::read_integers(PyObject* x) { return read_tensor(x) && t_.dtype.code == kDLInt && bits() == 64; }

bool Array::has_shape(std::initializer_list<int64_t> shape) const {
    if (int(shape.size()) != t_.ndim) return false;
    const int64_t* mine = t_.shape;
    for (int64_t size : shape)
        if (*mine++ != size) return false;
    return true;
}

bool Array::is_empty() const {
    for (int axis = 0; axis < t_.ndim; ++axis)
        if (t_.shape[axis] == 0) return true;
    return false;
}

size_t Array::bytes() const {
    size_t count = size_t(bits()) / 8;
    for (int axis = 0; axis < t_.ndim; ++axis) count *= size_t(t_.shape[axis]);
    return count;
}

bool Array::is_contiguous() const {
    if (is_empty()) return true;
    int64_t expected = 1;
    for (int axis = t_.ndim - 1; axis >= 0; --axis) {
        if (t_.shape[axis] != 1 && stride(axis) != expected) return false;
        expected *= t_.shape[axis];
    }
    return true;
}

py::object new_tensor(const Array& like) {
    const Places places(like.dl().shape, like.ndim());
    return new_tensor(like, places, like.bits());
}

py::object new_tensor_of_width(const Array& like, int64_t width) {
    int64_t shape[kMaxAxes];
    std::copy(like.dl().shape, like.dl().shape + like.ndim(), shape);
    shape[like.ndim() - 1] = width;
    return new_tensor(like, Places(shape, like.ndim()), like.bits());
}

py::object new_tensor(const Array& like, std::initializer_list<int64_t> shape) {
    const Places places(shape);
    return new_tensor(like, places, like.bits());
}

py::object new_tensor(const Array& like, std::initializer_list<int64_t> shape, int bits,
                      std::initializer_list<int> order) {
    const Places places(shape, order.begin());
    return new_tensor(like, places, bits);
}

} // namespace fastiter
