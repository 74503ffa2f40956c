// The bindings of fastiter.mdp.
#include "core/arguments.hpp"
#include "mdp/bounds.hpp"
#include "mdp/loops.hpp"
#include "mdp/model.hpp"
#include "mdp/pattern.hpp"
#include "mdp/policies/occupancy.hpp"
#include "mdp/project.hpp"
#include "mdp/robust.hpp"
#include <limits>
#include <string>

namespace fastiter::mdp {
namespace {

using namespace py::literals;

// bits: 32 or 64, for weights, rewards and values; arrays: row, entry, next, weight, reward, and for pairs that share
// rows pair and the number of these
template <class F> auto with_process(int bits, int64_t states, const py::tuple& arrays, F f) {
    return with_float(bits, [&]<class T>() {
        Process<T> p;
        p.states = states;
        p.row = address<const int64_t>(py::handle(arrays[0]));
        p.entry = address<const int64_t>(py::handle(arrays[1]));
        p.next = address<const int32_t>(py::handle(arrays[2]));
        p.weight = address<const T>(py::handle(arrays[3]));
        p.reward = address<const T>(py::handle(arrays[4]));
        if (arrays.size() > 5) {
            p.pair = address<const int32_t>(py::handle(arrays[5]));
            p.shared = arrays[6].cast<int64_t>();
        }
        return f(p);
    });
}

py::object model(int bits, int64_t states, const py::tuple& arrays) {
    return with_process(bits, states, arrays,
                        []<class T>(const Process<T>& p) { return py::cast(std::make_unique<Model<T>>(p)); });
}

py::tuple check(int bits, int64_t states, const py::tuple& arrays, int64_t rows, int64_t pairs, int64_t entries,
                double tolerance) {
    const Checked result = with_process(bits, states, arrays, [&](const auto& p) {
        py::gil_scoped_release release;
        return check_process(p, rows, pairs, entries, tolerance);
    });
    return py::make_tuple(int(result.fault), result.row, result.value, result.low, result.high);
}

int64_t predecessors_of(int bits, int64_t states, const py::tuple& arrays, py::handle start, py::handle before) {
    int64_t* first = address<int64_t>(start);
    int32_t* to = address<int32_t>(before);
    return with_process(bits, states, arrays, [&](const auto& p) {
        py::gil_scoped_release release;
        return predecessors(p, first, to);
    });
}

bool banded(int bits, int64_t states, const py::tuple& arrays, int64_t width) {
    return with_process(bits, states, arrays, [&](const auto& p) { return is_banded(p, width); });
}

void absorbing_of(int bits, int64_t states, const py::tuple& arrays, bool idle, py::handle out) {
    uint8_t* to = address<uint8_t>(out);
    with_process(bits, states, arrays, [&](const auto& p) { absorbing(p, idle, to); });
}

int64_t order(int64_t states, py::handle start, py::handle before, py::handle goals, py::handle out) {
    return order_from(states, address<const int64_t>(start), address<const int32_t>(before),
                      address<const uint8_t>(goals), address<int32_t>(out));
}

template <class T>
std::pair<double, double> backup(const Model<T>& m, py::handle v, py::handle w, py::handle action, int64_t count,
                                 double discount, py::handle reward) {
    const Vectors<T> x{address<T>(v), address<T>(w), address<int32_t>(action)};
    const T* own = address<const T>(reward);
    py::gil_scoped_release release;
    const Span span = m.backup(x, count, discount, own);
    return {span.low, span.high};
}

template <class T>
double sweep(const Model<T>& m, py::handle v, py::handle order, int64_t count, double discount, double omega,
             bool exact) {
    T* values = address<T>(v);
    const int32_t* states = address<const int32_t>(order);
    py::gil_scoped_release release;
    return m.sweep(values, states, count, discount, omega, exact);
}

template <class T> void action_values(const Model<T>& m, py::handle v, py::handle q, double discount) {
    const T* from = address<const T>(v);
    T* to = address<T>(q);
    py::gil_scoped_release release;
    m.action_values(from, to, discount);
}

template <class T> std::unique_ptr<Model<T>> chain(const Model<T>& m, py::handle action) {
    return m.chain(address<const int32_t>(action));
}

template <class T> std::unique_ptr<Model<T>> permuted(const Model<T>& m, py::handle order) {
    return m.permuted(address<const int32_t>(order));
}

template <class T>
std::unique_ptr<Prioritized<T>> prioritized(const Model<T>& m, py::handle start, py::handle before, double discount,
                                            double tolerance) {
    return std::make_unique<Prioritized<T>>(m, address<const int64_t>(start), address<const int32_t>(before), discount,
                                            tolerance);
}

template <class T> std::pair<int64_t, int64_t> run(Prioritized<T>& p, py::handle v, int64_t enough, int64_t limit) {
    T* values = address<T>(v);
    py::gil_scoped_release release;
    const Popped all = p.run(values, enough, limit);
    return {all.states, all.backups};
}

// reward: None for the chain's own
template <class T>
bool eliminate(Elimination& e, const Model<T>& chain, double discount, py::handle reward, py::handle v, int64_t limit) {
    const T* own = address<const T>(reward);
    T* values = address<T>(v);
    py::gil_scoped_release release;
    const Links<T> links = chain.links();
    return e.solve(links, discount, own ? own : links.reward, values, limit);
}

template <class T> int64_t checks(const Loops<T>& loops) {
    size_t largest = 0;
    for (const Result& one : loops.results()) largest = std::max(largest, one.history.size());
    return int64_t(largest);
}

// The rows of arrays that results are copied to
struct Numbers {
    double low, high;                                // the changes
    double bound_below, bound_above, bound_rounding; // the bounds
};
struct Counts {
    int64_t steps, reason;
};

// numbers (models, 5), counts (models, 2); history (models, checks), NaN after the end of a model
template <class T> void copy_results(const Loops<T>& loops, py::handle numbers, py::handle counts, py::handle history) {
    Numbers* number = address<Numbers>(numbers);
    Counts* count = address<Counts>(counts);
    double* table = address<double>(history);
    const int64_t width = checks(loops);
    for (const Result& one : loops.results()) {
        *number++ = {one.change.low, one.change.high, one.bounds.low, one.bounds.high, one.bounds.rounding};
        *count++ = {one.steps, int64_t(one.reason)};
        std::copy(one.history.begin(), one.history.end(), table);
        std::fill(table + one.history.size(), table + width, std::numeric_limits<double>::quiet_NaN());
        table += width;
    }
}

// judgement: null for the residuals alone
double left_of(const Judgement* judgement, py::handle history, int64_t count, double atol) {
    const double* residuals = address<const double>(history);
    return judgement ? steps_left(*judgement, residuals, count, atol) : steps_left(residuals, count, atol);
}

int64_t judged(const Judgement& judgement, py::handle history, int64_t count, double atol) {
    return next_judgement(judgement, address<const double>(history), count, atol);
}

// A model's row of an array
struct Extremes {
    double low, high;           // the smallest and the largest row sum
    double reward, doubt, base; // the largest reward, its doubt, and the largest |base|
};

// v, w, action, order: (models, states), order possibly None; extremes (models, 5); kinds (models) bytes
template <class T>
std::unique_ptr<Loops<T>> loops_of(const py::list& models, py::handle v, py::handle w, py::handle action,
                                   py::handle order, py::handle extremes, py::handle kinds, const Options& options) {
    Vectors<T> x{address<T>(v), address<T>(w), address<int32_t>(action)};
    const int32_t* own_order = address<const int32_t>(order);
    const Extremes* own = address<const Extremes>(extremes);
    const Kind* kind = address<const Kind>(kinds);
    std::vector<Input<T>> inputs;
    for (py::handle model : models) {
        Accuracy accuracy(sizeof(T) == sizeof(double), options.discount, own->low, own->high, own->reward,
                          options.longest);
        accuracy.doubt = own->doubt;
        accuracy.base = own->base;
        const bool is_ordered = options.order == Order::own && *kind == Kind::gs;
        inputs.push_back({model.cast<const Model<T>*>(), *kind, x, is_ordered ? own_order : nullptr, accuracy});
        const int64_t n = inputs.back().model->states();
        x = {x.v + n, x.w + n, x.action + n};
        if (own_order) own_order += n;
        ++own;
        ++kind;
    }
    return std::make_unique<Loops<T>>(std::move(inputs), options);
}

py::object loops(const py::list& models, py::handle v, py::handle w, py::handle action, py::handle order,
                 py::handle extremes, py::handle kinds, const Options& options) {
    if (py::isinstance<Model<double>>(models[0]))
        return py::cast(loops_of<double>(models, v, w, action, order, extremes, kinds, options));
    return py::cast(loops_of<float>(models, v, w, action, order, extremes, kinds, options));
}

// The bounds on V* from the least and the largest change of a sweep, and the largest |value|
std::tuple<double, double, double, double> bounds_of(const Accuracy& a, double low, double high, double size) {
    const Bounds result = a.bounds({low, high}, size);
    return {result.low, result.high, result.rounding, result.floor};
}

// base (states) float64, reward (rows)
double correct(int bits, int64_t states, const py::tuple& arrays, double discount, py::handle base, double limit,
               py::handle reward) {
    const double* values = address<const double>(base);
    void* to = address<void>(reward);
    return with_process(bits, states, arrays, [&]<class T>(Process<T>& p) {
        p.discount = discount;
        py::gil_scoped_release release;
        return corrections(p, values, T(limit), static_cast<T*>(to));
    });
}

// set: one of l1, interval, kl, chi2, contamination
std::pair<double, double> robust(int bits, int64_t states, const py::tuple& arrays, py::tuple vectors, double discount,
                                 int set, const py::tuple& shape, bool best, bool anywhere) {
    const Span span = with_process(bits, states, arrays, [&]<class T>(Process<T>& p) {
        p.discount = discount;
        RobustBackup<T> b{address<const T>(py::handle(vectors[0])), address<T>(py::handle(vectors[1]))};
        b.action = address<int32_t>(py::handle(vectors[2]));
        b.set = Set(set);
        b.radius = address<const double>(py::handle(shape[0]));
        b.low = address<const T>(py::handle(shape[1]));
        b.high = address<const T>(py::handle(shape[2]));
        b.sign = best ? -1 : 1;
        b.anywhere = anywhere;
        py::gil_scoped_release release;
        return robust_backup(p, b);
    });
    return {span.low, span.high};
}

std::pair<double, double> shared(int bits, int64_t states, const py::tuple& arrays, py::tuple vectors, double discount,
                                 py::handle radius) {
    const Span span = with_process(bits, states, arrays, [&]<class T>(Process<T>& p) {
        p.discount = discount;
        const T* v = address<const T>(py::handle(vectors[0]));
        T* w = address<T>(py::handle(vectors[1]));
        double* mixture = address<double>(py::handle(vectors[2]));
        const double* budget = address<const double>(radius);
        py::gil_scoped_release release;
        return shared_backup(p, v, w, budget, mixture);
    });
    return {span.low, span.high};
}

// vectors: policy (pairs), start (states); out: total (states), history (horizon, states) or None
void visits(int bits, int64_t states, const py::tuple& arrays, double discount, int64_t horizon,
            const py::tuple& vectors, const py::tuple& out) {
    with_process(bits, states, arrays, [&]<class T>(Process<T>& p) {
        p.discount = discount;
        Visits<T> v{address<const T>(py::handle(vectors[0])), address<const T>(py::handle(vectors[1])), horizon};
        v.total = address<T>(py::handle(out[0]));
        v.history = address<T>(py::handle(out[1]));
        py::gil_scoped_release release;
        visit(p, v);
    });
}

// vectors: policy, history, the gradient of the total; out: the gradients of start, policy, and of the entries or None
void gradients_of_visits(int bits, int64_t states, const py::tuple& arrays, double discount, int64_t horizon,
                         const py::tuple& vectors, const py::tuple& out) {
    with_process(bits, states, arrays, [&]<class T>(Process<T>& p) {
        p.discount = discount;
        VisitGradients<T> g{address<const T>(py::handle(vectors[0])), address<const T>(py::handle(vectors[1])),
                            address<const T>(py::handle(vectors[2])), horizon};
        g.start = address<T>(py::handle(out[0]));
        g.share = address<T>(py::handle(out[1]));
        g.weight = address<T>(py::handle(out[2]));
        py::gil_scoped_release release;
        visit_gradients(p, g);
    });
}

// z = 0: onto m quantiles; else onto the m atoms z
void project(int64_t n, int64_t k, py::handle p, py::handle x, int64_t m, py::handle z, py::handle out) {
    const double *mass = address<const double>(p), *at = address<const double>(x), *atoms = address<const double>(z);
    double* to = address<double>(out);
    py::gil_scoped_release release;
    if (atoms)
        project_categorical(n, k, mass, at, m, atoms, to);
    else
        project_quantile(n, k, mass, at, m, to);
}

template <class T> void bind_type(py::module_& m, const std::string& bits) {
    py::class_<Model<T>>(m, ("Model" + bits).c_str())
        .def("backup", backup<T>)
        .def("sweep", sweep<T>)
        .def("action_values", action_values<T>)
        .def("chain", chain<T>)
        .def("entries", &Model<T>::entries)
        .def("permuted", permuted<T>)
        .def("prioritized", prioritized<T>, py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), py::keep_alive<0, 3>())
        .def("transposed", &Model<T>::transposed);
    py::class_<Prioritized<T>>(m, ("Prioritized" + bits).c_str()).def("run", run<T>);
    py::class_<Loops<T>>(m, ("Loops" + bits).c_str())
        .def("run", &Loops<T>::run, py::call_guard<py::gil_scoped_release>())
        .def("checks", checks<T>)
        .def("copy", copy_results<T>);
}

void bind_options(py::module_& m) {
    py::class_<Judgement>(m, "Judgement")
        .def(py::init<int64_t, double, double, double>(), "first"_a, "overhead"_a, "needed"_a, "rate"_a)
        .def_readwrite("first", &Judgement::first)
        .def_readwrite("overhead", &Judgement::overhead)
        .def_readwrite("needed", &Judgement::needed)
        .def_readwrite("rate", &Judgement::rate);
    py::class_<Options>(m, "Options")
        .def(py::init<>())
        .def_readwrite("discount", &Options::discount)
        .def_readwrite("atol", &Options::atol)
        .def_readwrite("sup", &Options::sup)
        .def_readwrite("max_steps", &Options::max_steps)
        .def_readwrite("patience", &Options::patience)
        .def_readwrite("policy_sweeps", &Options::policy_sweeps)
        .def_readwrite("omega", &Options::omega)
        .def_readwrite("exact", &Options::exact)
        .def_property(
            "order", [](const Options& o) { return int(o.order); },
            [](Options& o, int order) { o.order = Order(order); })
        .def_readwrite("longest", &Options::longest)
        .def_readwrite("is_many", &Options::is_many)
        .def_readwrite("judgement", &Options::judgement);
}

} // namespace

void bind(py::module_& m) {
    bind_type<float>(m, "32");
    bind_type<double>(m, "64");
    bind_options(m);
    py::class_<Accuracy>(m, "Accuracy")
        .def(py::init<bool, double, double, double, double, int64_t>())
        .def_readwrite("inexact", &Accuracy::inexact)
        .def_readwrite("doubt", &Accuracy::doubt)
        .def_readwrite("base", &Accuracy::base)
        .def("bounds", bounds_of)
        .def("symmetric", &Accuracy::symmetric)
        .def("sweep_error", &Accuracy::sweep_error)
        .def("reachable", &Accuracy::reachable);
    py::class_<Elimination>(m, "Elimination")
        .def(py::init<>())
        .def("solve", eliminate<float>)
        .def("solve", eliminate<double>)
        .def("operations", &Elimination::operations);
    m.def("model", model, py::keep_alive<0, 3>());
    m.def("loops", loops);
    m.def("check", check);
    m.def("corrections", correct);
    m.def("is_rounding", is_rounding);
    m.def("steps_left", left_of);
    m.def("next_judgement", judged);
    m.def("is_banded", banded);
    m.def("predecessors", predecessors_of);
    m.def("absorbing", absorbing_of);
    m.def("order_from", order);
    m.def("robust", robust);
    m.def("shared", shared);
    m.def("visits", visits);
    m.def("visit_gradients", gradients_of_visits);
    m.def("project", project);
}

} // namespace fastiter::mdp
