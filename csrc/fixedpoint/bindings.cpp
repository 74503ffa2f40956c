// The bindings of fastiter.fixedpoint.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "fixedpoint/cpu/kernels.hpp"
#include <algorithm>
#include <pybind11/numpy.h>
#include <vector>

namespace fastiter::fixedpoint {
namespace {

PyObject* at(const py::tuple& t, int i) { return PyTuple_GET_ITEM(t.ptr(), i); }

// sizes: (rows, n, m). vectors: (slot, x, f, next).
template <class Step> void set_step(Step& p, const py::tuple& sizes, const py::tuple& vectors, py::handle restart) {
    p.rows = integer(at(sizes, 0));
    p.n = integer(at(sizes, 1));
    p.m = integer(at(sizes, 2));
    p.slot = address<const int64_t>(at(vectors, 0));
    using T = std::remove_reference_t<decltype(*p.next)>;
    p.x = address<const T>(at(vectors, 1));
    p.f = address<const T>(at(vectors, 2));
    p.next = address<T>(at(vectors, 3));
    p.restart = address<const uint8_t>(restart);
}

// Runs a step; sums: numbers in the workspace for each row and chunk
template <class Step> void run(void (*step)(const Step&, Team), Step& p, int64_t sums) {
    constexpr int64_t kMinNumbers = 1 << 19; // multiplications
    p.workspace = static_cast<double*>(workspace.of(sizeof(double) * p.rows * (chunks_of(p.n) + 1) * sums));
    py::gil_scoped_release release;
    launch(step, p, [&](int threads) { return threads_for(3 * p.rows * p.n * p.m, kMinNumbers, threads); });
}

// history: (last_r, last_g, dr, dg, gram, pushed). options: whether type I; whether dr and dg are stored in half as many
// bits as x. Calls f(p) with the step, whose rows and vectors are missing.
template <class F>
auto with_anderson(int bits, const py::tuple& history, double beta, double ridge, py::handle options, F f) {
    auto with = [&]<class T, class H>() {
        AndersonStep<T, H> p;
        p.last_r = address<T>(at(history, 0));
        p.last_g = address<T>(at(history, 1));
        p.dr = address<H>(at(history, 2));
        p.dg = address<H>(at(history, 3));
        p.gram = address<double>(at(history, 4));
        p.pushed = address<int64_t>(at(history, 5));
        p.beta = beta;
        p.ridge = ridge;
        p.type_one = PyTuple_GET_ITEM(options.ptr(), 0) == Py_True;
        return f(p);
    };
    if (PyTuple_GET_ITEM(options.ptr(), 1) == Py_True)
        return bits == 32 ? with.template operator()<float, bf16>() : with.template operator()<double, float>();
    return bits == 32 ? with.template operator()<float, float>() : with.template operator()<double, double>();
}

template <class T, class H> void run(AndersonStep<T, H>& p) {
    run(anderson_steps().of<AndersonOf<T, H>>().step, p, 5 * p.m);
}

void anderson(int bits, const py::tuple& sizes, const py::tuple& vectors, const py::tuple& history, py::handle restart,
              double beta, double ridge, const py::tuple& options) {
    with_anderson(bits, history, beta, ridge, options, [&]<class T, class H>(AndersonStep<T, H>& p) {
        set_step(p, sizes, vectors, restart);
        run(p);
    });
}

// history: (last_x, last_r, u, v, pushed)
void broyden(int bits, const py::tuple& sizes, const py::tuple& vectors, const py::tuple& history, py::handle restart,
             double beta) {
    with_float(bits, [&]<class T>() {
        BroydenStep<T> p;
        set_step(p, sizes, vectors, restart);
        p.last_x = address<T>(at(history, 0));
        p.last_r = address<T>(at(history, 1));
        p.u = address<T>(at(history, 2));
        p.v = address<T>(at(history, 3));
        p.pushed = address<int64_t>(at(history, 4));
        p.beta = beta;
        run(broyden_steps().of<BroydenOf<T>>().step, p, 3 * p.m + 4);
    });
}

// state: (residual, scale, best, best_scale, track), by sample; results: (verdict, is_best), by row. limits: (rtol, atol,
// growth, patience, eps)
Judge judge_of(int64_t rows, py::handle slot, const py::tuple& state, const py::tuple& results,
               const py::tuple& limits) {
    Judge p;
    p.rows = rows;
    p.slot = address<const int64_t>(slot);
    p.residual = address<double>(at(state, 0));
    p.scale = address<double>(at(state, 1));
    p.best = address<double>(at(state, 2));
    p.best_scale = address<double>(at(state, 3));
    p.track = reinterpret_cast<Track*>(address<double>(at(state, 4)));
    p.verdict = address<Verdict>(at(results, 0));
    p.is_best = address<uint8_t>(at(results, 1));
    p.rtol = PyFloat_AsDouble(at(limits, 0));
    p.atol = PyFloat_AsDouble(at(limits, 1));
    p.growth = PyFloat_AsDouble(at(limits, 2));
    p.patience = integer(at(limits, 3));
    p.eps = PyFloat_AsDouble(at(limits, 4));
    return p;
}

int64_t judge(int64_t rows, py::handle slot, const py::tuple& state, const py::tuple& results,
              const py::tuple& limits) {
    return judge_rows(judge_of(rows, slot, state, results, limits));
}

// Runs a measurement without the GIL; returns the number of verdicts other than go_on.
template <class T> int64_t run(Measure<T>& p) {
    const int64_t rows = p.judge.rows;
    p.workspace = static_cast<double*>(workspace.of(sizeof(double) * rows * chunks_of(p.n) * 4));
    constexpr int64_t kMinNumbers = 1 << 17; // numbers
    {
        py::gil_scoped_release release;
        launch(measures().of<MeasureOf<T>>().measure, p,
               [&](int threads) { return threads_for(rows * p.n, kMinNumbers, threads); });
    }
    return rows - std::count(p.judge.verdict, p.judge.verdict + rows, Verdict::go_on);
}

// vectors: (slot, x, f, best_x). Returns the number of verdicts other than go_on.
int64_t measure(int bits, const py::tuple& sizes, const py::tuple& vectors, const py::tuple& state,
                const py::tuple& results, const py::tuple& limits, int norm) {
    return with_float(bits, [&]<class T>() {
        Measure<T> p;
        p.judge = judge_of(integer(at(sizes, 0)), at(vectors, 0), state, results, limits);
        p.n = integer(at(sizes, 1));
        p.x = address<const T>(at(vectors, 1));
        p.f = address<const T>(at(vectors, 2));
        p.best_x = address<T>(at(vectors, 3));
        p.norm = Norm(norm);
        return run(p);
    });
}

// Whether f returned a plain contiguous array of the dtype and shape of x
bool is_like(const py::object& value, const py::array& x) {
    if (Py_TYPE(value.ptr()) != Py_TYPE(x.ptr())) return false;
    const auto result = py::reinterpret_borrow<py::array>(value);
    constexpr int kPlain = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    return result.dtype().is(x.dtype()) && (result.flags() & kPlain) == kPlain && result.ndim() == x.ndim() &&
           std::equal(result.shape(), result.shape() + result.ndim(), x.shape());
}

// The residuals of all samples at successive steps, in blocks of many steps: one block that grows would be copied again
// and again, and new memory for each step takes longer than the step.
class History {
public:
    explicit History(int64_t samples)
        : samples_(samples),
          room_(std::max<int64_t>(1, (samples > kFew ? kMany : kFew) / std::max<int64_t>(1, samples))) {}

    void append(const double* residual) {
        if (steps_ % room_ == 0) blocks_.emplace_back(room_ * samples_);
        std::copy_n(residual, samples_, blocks_.back().data() + steps_ % room_ * samples_);
        ++steps_;
    }

    // Copies them to contiguous memory for steps_ * samples_ numbers.
    void copy_to(double* to) const {
        for (size_t k = 0; k < blocks_.size(); ++k) {
            const int64_t first = int64_t(k) * room_;
            std::copy_n(blocks_[k].data(), std::min(room_, steps_ - first) * samples_, to + first * samples_);
        }
    }

    int64_t steps() const { return steps_; }

private:
    // Numbers in a block of few samples, and in one of many: a large page
    static constexpr int64_t kFew = 512, kMany = 1 << 18;
    int64_t samples_;
    int64_t room_;
    int64_t steps_ = 0;
    std::vector<Block<double>> blocks_;
};

// Evaluates f(x, *args), judges the rows and steps by Anderson's method, until a row has a verdict, `limit` steps are
// done, or f returns something else than a plain array: the loop for small problems, on which Python would spend more
// time than f. judging: (bits, (rows, n), slot, best_x, state, results, limits, norm); stepping: (m, history, beta,
// ridge, options). Adds the residuals of the previous x to a history; returns x, f(x), the number of verdicts, or None if
// f(x) has not been read, and the number of steps.
py::tuple anderson_loop(const py::object& f, py::array x, const py::tuple& args, int64_t limit,
                        const py::tuple& judging, const py::tuple& stepping, History& history) {
    const auto item = [](const py::tuple& t, int i) { return py::reinterpret_borrow<py::object>(at(t, i)); };
    const py::tuple rows_n = item(judging, 1), differences = item(stepping, 1);
    const double beta = PyFloat_AsDouble(at(stepping, 2)), ridge = PyFloat_AsDouble(at(stepping, 3));
    const int bits = int(integer(at(judging, 0)));
    const std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
    const py::dtype dtype = x.dtype();
    return with_anderson(
        bits, differences, beta, ridge, at(stepping, 4), [&]<class T, class H>(AndersonStep<T, H>& s) -> py::tuple {
            Measure<T> p;
            s.rows = integer(at(rows_n, 0));
            s.n = p.n = integer(at(rows_n, 1));
            s.m = integer(at(stepping, 0));
            p.judge = judge_of(s.rows, at(judging, 2), item(judging, 4), item(judging, 5), item(judging, 6));
            s.slot = p.judge.slot;
            p.best_x = address<T>(at(judging, 3));
            p.norm = Norm(integer(at(judging, 7)));
            for (int64_t step = 0;; ++step) {
                py::object value = f(x, *args);
                if (!is_like(value, x)) return py::make_tuple(x, value, py::none(), step);
                s.x = p.x = static_cast<const T*>(x.data());
                s.f = p.f = static_cast<const T*>(py::reinterpret_borrow<py::array>(value).data());
                const int64_t count = run(p);
                if (count || step == limit) return py::make_tuple(x, value, count, step);
                history.append(p.judge.residual);
                py::array next(dtype, shape);
                s.next = static_cast<T*>(next.mutable_data());
                run(s);
                py::detail::array_proxy(next.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
                x = std::move(next);
            }
        });
}

} // namespace

// Additional binding files define void bind_<topic>(py::module_& m), declared here.
void bind_hopfield(py::module_& m);
void bind_prox(py::module_& m);
void bind_sinkhorn(py::module_& m);
void bind_transport(py::module_& m);

void bind(py::module_& m) {
    m.def("anderson", anderson);
    m.def("anderson_loop", anderson_loop);
    m.def("broyden", broyden);
    m.def("judge", judge);
    m.def("measure", measure);
    py::class_<History>(m, "History")
        .def(py::init<int64_t>())
        .def("append", [](History& h, py::handle residual) { h.append(address<const double>(residual)); })
        .def("copy_to", [](const History& h, py::handle to) { h.copy_to(address<double>(to)); })
        .def_property_readonly("steps", &History::steps);
    // One call for each additional file: bind_<topic>(m);
    bind_hopfield(m);
    bind_prox(m);
    bind_sinkhorn(m);
    bind_transport(m);
}

} // namespace fastiter::fixedpoint
