// torch's tensors without linking to torch: the C functions that torch.Tensor exports as __dlpack_c_exchange_api__ read
// and create tensors in a fraction of the microseconds that Python takes. The structs are the ABI of DLPack 1.
#pragma once
#include "core/arguments.hpp"
#include <initializer_list>

namespace fastiter {

namespace dlpack {

struct Version {
    uint32_t major, minor;
};
struct Device {
    int32_t type, id;
};
struct DataType {
    uint8_t code, bits;
    uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t* shape;
    int64_t* strides;
    uint64_t byte_offset;
};
struct Managed { // a tensor and its owner
    Version version;
    void* owner;
    void (*release)(Managed*);
    uint64_t flags;
    Tensor tensor;
};
using SetError = void (*)(void* context, const char* kind, const char* message);
struct ExchangeApi {
    Version version;
    const ExchangeApi* older;
    int (*allocate)(Tensor* prototype, Managed** out, void* context, SetError);
    int (*export_managed)(void* object, Managed** out);
    int (*import_managed)(Managed*, void** object);
    int (*view)(void* object, Tensor* out); // valid as long as the object
    int (*stream)(int32_t device_type, int32_t device_id, void** out);
};
constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBfloat = 4;

} // namespace dlpack

// Registers torch's DLPack API and the tensor types that are read directly; subclasses are excluded, as they may
// redefine ops. Returns whether the DLPack version is supported.
bool use_tensors(py::object api, py::object tensor_type, py::object parameter_type);

// A dense CPU tensor of float32, float64 or bfloat16, distinguished by their bits
class View {
public:
    bool read(PyObject* x); // false: not such a tensor
    int ndim() const { return t_.ndim; }
    int bits() const { return t_.dtype.bits; }
    int64_t size(int axis) const { return t_.shape[axis < 0 ? t_.ndim + axis : axis]; }
    int64_t stride(int axis) const { return t_.strides[axis < 0 ? t_.ndim + axis : axis]; }
    bool has_shape(std::initializer_list<int64_t> shape) const;
    bool is_empty() const;
    size_t bytes() const; // of its elements
    bool is_contiguous() const;
    bool has_unit_stride() const { return stride(-1) == 1 || size(-1) == 1 || is_empty(); }
    template <class T> T* data() const { return reinterpret_cast<T*>(static_cast<char*>(t_.data) + t_.byte_offset); }
    const dlpack::Tensor& dl() const { return t_; }

private:
    dlpack::Tensor t_{};
};

// An uninitialised contiguous tensor of the dtype of `like`
py::object new_tensor(const View& like, std::initializer_list<int64_t> shape);
// A dense tensor of the dtype with `bits`, its axes in the given memory order, outermost first. A large one reuses
// memory.
py::object new_tensor(const View& like, std::initializer_list<int64_t> shape, int bits,
                      std::initializer_list<int> order);

} // namespace fastiter
