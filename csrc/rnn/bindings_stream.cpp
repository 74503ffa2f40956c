// Stacks of layers that advance one time step at a time, on tensors. They detect weights that changed after packing.
#include "core/arguments.hpp"
#include "core/arrays.hpp"
#include "rnn/stream.hpp"
#include <algorithm>
#include <cstring>

namespace fastiter::rnn {
namespace {

// Snapshot of an entry of a module's parameter dict, to detect changes
class Watched {
public:
    // (dict, name, tensor, whether it has a version counter, an alias, its size in bytes)
    explicit Watched(const py::handle& x) {
        const py::tuple entry = py::reinterpret_borrow<py::tuple>(x);
        owner_ = entry[0];
        name_ = entry[1];
        tensor_ = entry[2];
        alias_ = entry[4];
        counts_ = entry[3].cast<bool>();
        words_ = entry[5].cast<int64_t>() / int64_t(sizeof(Word));
        if (counts_) version_ = version();
        address_ = address();
        sample(sample_);
    }
    bool is_unchanged() const {
        if (PyDict_GetItemWithError(owner_.ptr(), name_.ptr()) != tensor_.ptr()) return false;
        if ((counts_ && version() != version_) || address() != address_) return false;
        Word now[kSample];
        sample(now);
        return std::equal(now, now + kSample, sample_);
    }

private:
    using Word = uint32_t;
    static constexpr int64_t kSample = 16;

    int64_t version() const {
        static PyObject* name = PyUnicode_InternFromString("_version");
        return integer(called(PyObject_GetAttr(tensor_.ptr(), name)).ptr());
    }
    int64_t address() const {
        static PyObject* name = PyUnicode_InternFromString("data_ptr");
        return integer(called(PyObject_CallMethodNoArgs(tensor_.ptr(), name)).ptr());
    }
    // Samples some of the numbers: fused optimizers, collectives and writes through .data change all numbers without
    // incrementing the version.
    void sample(Word (&out)[kSample]) const {
        std::fill_n(out, kSample, Word(0));
        const char* data = reinterpret_cast<const char*>(address_);
        for (int64_t i = 0; i < kSample && words_ > 0; ++i)
            std::memcpy(&out[i], data + i * words_ / kSample * int64_t(sizeof(Word)), sizeof(Word));
    }
    static py::object called(PyObject* result) {
        if (!result) throw py::error_already_set();
        return py::reinterpret_steal<py::object>(result);
    }

    py::object owner_, name_, tensor_;
    py::object alias_; // keeps the memory alive: new weights never reuse the old address
    bool counts_;      // inference-mode tensors have no version counter
    int64_t version_ = 0, address_ = 0, words_ = 0;
    Word sample_[kSample];
};

// Memory of a new tensor; under a mode of torch that makes fake tensors, it has none.
template <class T> T* memory_of(const py::object& tensors) {
    Array view;
    if (!view.read(tensors.ptr())) throw std::runtime_error("a step needs tensors that have memory, got a fake one");
    return view.data<T>();
}

// x (I,) or (B, I), and an output y with the same number of axes
template <class T> struct InAndOut {
    Array x;
    bool batched = false;
    py::object y;
    T* out = nullptr;

    bool read(PyObject* x_, const StreamState<T>& stream) {
        if (!x.read(x_) || x.bits() != 8 * int(sizeof(T)) || !x.has_unit_stride()) return false;
        batched = x.ndim() == 2;
        return batched ? x.has_shape({stream.rows(), stream.inputs()})
                       : stream.rows() == 1 && x.has_shape({stream.inputs()});
    }
    const T* in() const { return x.data<const T>(); }
    int64_t row() const { return batched ? x.stride(0) : 0; }
    void make(int64_t rows, int64_t outputs) {
        y = batched ? new_tensor(x, {rows, outputs}) : new_tensor(x, {outputs});
        out = memory_of<T>(y);
    }
};

template <class P> struct Places {
    P* of[kMaxStates] = {};
    explicit Places(const py::tuple& x) {
        for (size_t i = 0; i < x.size(); ++i) of[i] = address<P>(PyTuple_GET_ITEM(x.ptr(), py::ssize_t(i)));
    }
};

template <class T> class Stream {
public:
    // layers: (I, D, P, w_ih, r, b_x, b_h, w_hr, to_first) for each layer; first: addresses of the states, or ();
    // watched: the arguments of each Watched
    Stream(int cell, int64_t rows, int64_t heads, double clip_state, const py::list& layers, const py::tuple& first,
           const py::list& watched)
        : stream_(Cell(cell), rows, heads, clip_state, weights_of(layers), Places<const T>(first).of) {
        for (const py::handle& entry : watched) watched_.emplace_back(entry);
    }

    bool is_current() const {
        for (const Watched& w : watched_)
            if (!w.is_unchanged()) return false;
        return true;
    }

    // Returns y; None if the weights have changed since packing, or if x is not plain memory of the right shape.
    py::object step(py::handle x, bool batched) {
        InAndOut<T> io;
        if (!is_current() || !io.read(x.ptr(), stream_) || io.batched != batched) return py::none();
        io.make(stream_.rows(), stream_.outputs());
        run([&] { stream_.step(io.in(), io.row(), io.out); });
        return io.y;
    }

    // The same for addresses; x and y are contiguous.
    void step_at(py::handle x, py::handle y) {
        const T* in = address<const T>(x);
        T* out = address<T>(y);
        run([&] { stream_.step(in, stream_.inputs(), out); });
    }

    // Returns [y, states] from states (layers, B, H) each, without B if x has none; None in the same cases as `step`.
    // Not for projected layers.
    py::object step_from(py::handle x, const py::tuple& first) {
        InAndOut<T> io;
        const int states = stream_.states();
        if (!is_current() || !io.read(x.ptr(), stream_)) return py::none();
        const T* from[kMaxStates] = {};
        for (int i = 0; i < int(first.size()); ++i) {
            Array s;
            if (int(first.size()) != states || !s.read(PyTuple_GET_ITEM(first.ptr(), i))) return py::none();
            if (s.bits() != io.x.bits() || !s.is_contiguous() || !has_shape_of_state(s, io.batched)) return py::none();
            from[i] = s.data<const T>();
        }
        io.make(stream_.rows(), stream_.outputs());
        py::list tensors;
        tensors.append(io.y);
        T* to[kMaxStates] = {};
        for (int i = 0; i < states; ++i) {
            tensors.append(io.batched ? new_tensor(io.x, {stream_.count(), stream_.rows(), stream_.width()})
                                      : new_tensor(io.x, {stream_.count(), stream_.width()}));
            to[i] = memory_of<T>(tensors[size_t(i) + 1]);
        }
        run([&] { stream_.step_from(from, io.in(), io.row(), io.out, to); });
        return tensors;
    }

    void states(const py::tuple& out) const { stream_.read_states(Places<T>(out).of); }

private:
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

    bool has_shape_of_state(const Array& s, bool batched) const {
        return batched ? s.has_shape({stream_.count(), stream_.rows(), stream_.width()})
                       : s.has_shape({stream_.count(), stream_.width()});
    }

    template <class F> void run(F f) {
        if (!stream_.is_long()) return f();
        py::gil_scoped_release release;
        f();
    }

    StreamState<T> stream_;
    std::vector<Watched> watched_;
};

template <class T> void define(py::module_& m, const char* name) {
    py::class_<Stream<T>>(m, name)
        .def(py::init<int, int64_t, int64_t, double, const py::list&, const py::tuple&, const py::list&>())
        .def("is_current", &Stream<T>::is_current)
        .def("step", &Stream<T>::step)
        .def("step_at", &Stream<T>::step_at)
        .def("step_from", &Stream<T>::step_from)
        .def("states", &Stream<T>::states);
}

} // namespace

void bind_stream(py::module_& m) {
    define<float>(m, "Stream_f32");
    define<double>(m, "Stream_f64");
}

} // namespace fastiter::rnn
