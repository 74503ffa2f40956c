// Stacks of layers that go one time step at a time, on tensors. They know when a weight was changed after they were made.
#include "bindings.hpp"
#include "step.hpp"
#include "tensors.hpp"

namespace fastiter {
namespace {

// An entry of a module's dict of parameters, as it was
class Watched {
public:
    explicit Watched(const py::handle& x) {
        const py::tuple entry = py::reinterpret_borrow<py::tuple>(x);
        held_ = entry[0], name_ = entry[1], tensor_ = entry[2];
        counts_ = entry[3].cast<bool>();
        if (counts_) version_ = version();
        address_ = address();
    }
    bool is_unchanged() const {
        return PyDict_GetItemWithError(held_.ptr(), name_.ptr()) == tensor_.ptr() &&
               (!counts_ || version() == version_) && address() == address_;
    }

private:
    int64_t version() const {
        static PyObject* name = PyUnicode_InternFromString("_version");
        return integer(called(PyObject_GetAttr(tensor_.ptr(), name)).ptr());
    }
    int64_t address() const {
        static PyObject* name = PyUnicode_InternFromString("data_ptr");
        return integer(called(PyObject_CallMethodNoArgs(tensor_.ptr(), name)).ptr());
    }
    static py::object called(PyObject* result) {
        if (!result) throw py::error_already_set();
        return py::reinterpret_steal<py::object>(result);
    }

    py::object held_, name_, tensor_;
    bool counts_; // tensors of inference mode count no versions
    int64_t version_ = 0, address_ = 0;
};

template <class T> class Stream {
public:
    // layers: (I, D, P, w_ih, r, b_x, b_h, w_hr, to_first) each; first: addresses of the states, or ();
    // watched: (dict, name, tensor, whether it counts its versions) each
    Stream(int cell, int64_t rows, int64_t heads, const py::list& layers, const py::tuple& first,
           const py::list& watched)
        : stream_(Cell(cell), rows, heads, weights_of(layers), Places<const T>(first).of) {
        for (const py::handle& entry : watched) watched_.emplace_back(entry);
    }

    bool is_current() const {
        for (const Watched& w : watched_)
            if (!w.is_unchanged()) return false;
        return true;
    }

    // y for x (I,) or (B, I); None where the weights are no longer those that were packed, or x is anything else
    py::object step(py::handle x_) {
        View x;
        if (!is_current() || !x.read(x_.ptr()) || x.bits() != 8 * int(sizeof(T)) || !x.has_unit_stride())
            return py::none();
        const int64_t rows = stream_.rows(), inputs = stream_.inputs(), outputs = stream_.outputs();
        const bool batched = x.ndim() == 2;
        if (batched ? !x.has_shape({rows, inputs}) : rows != 1 || !x.has_shape({inputs})) return py::none();
        py::object y = batched ? new_tensor(x, {rows, outputs}) : new_tensor(x, {outputs});
        View out;
        out.read(y.ptr());
        run(x.data<const T>(), batched ? x.stride(0) : 0, out.data<T>());
        return y;
    }

    // The same at addresses, x and y contiguous
    void step_at(py::handle x, py::handle y) { run(address<const T>(x), stream_.inputs(), address<T>(y)); }

    void states(const py::tuple& out) const { stream_.states(Places<T>(out).of); }

private:
    template <class P> struct Places {
        P* of[kMaxStates] = {};
        explicit Places(const py::tuple& x) {
            for (size_t i = 0; i < x.size(); ++i) of[i] = address<P>(PyTuple_GET_ITEM(x.ptr(), py::ssize_t(i)));
        }
    };

    static std::vector<StepWeights<T>> weights_of(const py::list& layers) {
        std::vector<StepWeights<T>> all;
        for (const py::handle& layer : layers) {
            auto at = [&](int i) { return PyTuple_GET_ITEM(layer.ptr(), i); };
            StepWeights<T> w{integer(at(0)), integer(at(1)), integer(at(2))};
            const T** places[] = {&w.w_ih, &w.r, &w.b_x, &w.b_h, &w.w_hr, &w.to_first};
            for (int i = 0; i < 6; ++i) *places[i] = address<const T>(at(i + 3));
            all.push_back(w);
        }
        return all;
    }

    void run(const T* x, int64_t x_row, T* y) {
        if (!stream_.is_long()) return stream_.step(x, x_row, y);
        py::gil_scoped_release release;
        stream_.step(x, x_row, y);
    }

    StepStream<T> stream_;
    std::vector<Watched> watched_;
};

template <class T> void define(py::module_& m, const char* name) {
    py::class_<Stream<T>>(m, name)
        .def(py::init<int, int64_t, int64_t, const py::list&, const py::tuple&, const py::list&>())
        .def("is_current", &Stream<T>::is_current)
        .def("step", &Stream<T>::step)
        .def("step_at", &Stream<T>::step_at)
        .def("states", &Stream<T>::states);
}

} // namespace

void define_step(py::module_& m) {
    define<float>(m, "RnnStream_f32");
    define<double>(m, "RnnStream_f64");
}

} // namespace fastiter
