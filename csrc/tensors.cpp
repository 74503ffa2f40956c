#include "tensors.hpp"
#include <algorithm>
#include <utility>
#include <vector>

namespace fastiter {
namespace {

const dlpack::ExchangeApi* api = nullptr;
PyTypeObject *tensor = nullptr, *parameter = nullptr;
PyObject* is_neg = nullptr; // interned name

void set_error(void*, const char*, const char* message) {
    py::gil_scoped_acquire held;
    PyErr_SetString(PyExc_RuntimeError, message);
}

// A tensor may be a view whose negation torch has only noted down, of which DLPack says nothing.
bool is_negated(PyObject* x) {
    PyObject* answer = PyObject_CallMethodNoArgs(x, is_neg);
    if (!answer) throw py::error_already_set();
    const bool negated = answer != Py_False;
    Py_DECREF(answer);
    return negated;
}

} // namespace

bool use_tensors(py::object capsule, py::object tensor_type, py::object parameter_type) {
    const auto* offered =
        static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!offered) throw py::error_already_set();
    if (offered->version.major != 1) return false;
    api = offered;
    tensor = reinterpret_cast<PyTypeObject*>(tensor_type.release().ptr()); // types live as long as the process
    parameter = reinterpret_cast<PyTypeObject*>(parameter_type.release().ptr());
    is_neg = PyUnicode_InternFromString("is_neg");
    return true;
}

bool View::read(PyObject* x) {
    if (!api || (Py_TYPE(x) != tensor && Py_TYPE(x) != parameter)) return false;
    if (api->view(x, &t_) != 0) {
        PyErr_Clear();
        return false;
    }
    const bool is_known = bits() == 16 ? t_.dtype.code == dlpack::kBfloat
                                       : t_.dtype.code == dlpack::kFloat && (bits() == 32 || bits() == 64);
    return is_known && t_.dtype.lanes == 1 && t_.device.type == dlpack::kCpu && t_.ndim > 0 && t_.strides &&
           !is_negated(x);
}

bool View::has_shape(std::initializer_list<int64_t> shape) const {
    if (int(shape.size()) != t_.ndim) return false;
    const int64_t* mine = t_.shape;
    for (int64_t size : shape)
        if (*mine++ != size) return false;
    return true;
}

bool View::is_empty() const {
    for (int axis = 0; axis < t_.ndim; ++axis)
        if (t_.shape[axis] == 0) return true;
    return false;
}

bool View::is_contiguous() const {
    if (is_empty()) return true;
    int64_t expected = 1;
    for (int axis = t_.ndim - 1; axis >= 0; --axis) {
        if (t_.shape[axis] != 1 && t_.strides[axis] != expected) return false;
        expected *= t_.shape[axis];
    }
    return true;
}

py::object new_tensor(const View& like, std::initializer_list<int64_t> shape) {
    return new_tensor(like, shape, like.bits(), false);
}

py::object new_tensor(const View& like, std::initializer_list<int64_t> shape, int bits, bool second_first) {
    std::vector<int64_t> sizes(shape), strides(shape.size());
    if (second_first) std::swap(sizes[0], sizes[1]);
    int64_t stride = 1;
    for (size_t axis = sizes.size(); axis-- > 0; stride *= std::max<int64_t>(sizes[axis], 1)) strides[axis] = stride;
    dlpack::Tensor prototype = like.dl();
    prototype.dtype = {bits == 16 ? dlpack::kBfloat : dlpack::kFloat, uint8_t(bits), 1};
    prototype.ndim = int32_t(sizes.size());
    prototype.shape = sizes.data();
    prototype.strides = nullptr;
    dlpack::Managed* managed = nullptr;
    void* object = nullptr;
    if (api->allocate(&prototype, &managed, nullptr, set_error) != 0) throw py::error_already_set();
    if (second_first) std::swap(sizes[0], sizes[1]), std::swap(strides[0], strides[1]);
    managed->tensor.shape = sizes.data();
    managed->tensor.strides = strides.data();
    if (api->import_managed(managed, &object) != 0) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

} // namespace fastiter
