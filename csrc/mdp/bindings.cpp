// The bindings of fastiter.mdp.
#include "core/arguments.hpp"
#include "mdp/bounds.hpp"
#include "mdp/corrections.hpp"
#include "mdp/model.hpp"
#include "mdp/pattern.hpp"
#include "mdp/project.hpp"
#include "mdp/robust.hpp"
#include "mdp/several.hpp"
#include <limits>

namespace fastiter::mdp {
namespace {

// bits: 32 or 64, for weights, rewards and values
template <class F> auto with_process(int bits, int64_t states, const py::tuple& arrays, F f) {
    return with_float(bits, [&]<class T>() {
        Process<T> p;
        p.states = states;
        p.row = address<const int64_t>(py::handle(arrays[0])), p.entry = address<const int64_t>(py::handle(arrays[1]));
        p.next = address<const int32_t>(py::handle(arrays[2]));
        p.weight = address<const T>(py::handle(arrays[3])), p.reward = address<const T>(py::handle(arrays[4]));
        return f(p);
    });
}

std::unique_ptr<Model> model(int bits, int64_t states, const py::tuple& arrays) {
    return with_process(bits, states, arrays, [](const auto& p) { return model_of(p); });
}

py::tuple check(int bits, int64_t states, const py::tuple& arrays, int64_t rows, int64_t entries, double tolerance) {
    const Checked found = with_process(bits, states, arrays, [&](const auto& p) {
        py::gil_scoped_release release;
        return check_process(p, rows, entries, tolerance);
    });
    return py::make_tuple(int(found.fault), found.row, found.value, found.low, found.high);
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

std::pair<double, double> backup(Model& m, py::handle v, py::handle w, py::handle action, int64_t count,
                                 double discount, py::handle reward) {
    void *from = address<void>(v), *to = address<void>(w);
    int32_t* chosen = address<int32_t>(action);
    const void* own = address<const void>(reward);
    py::gil_scoped_release release;
    const Span span = m.backup(from, to, chosen, count, discount, own);
    return {span.low, span.high};
}

double sweep(Model& m, py::handle v, py::handle order, int64_t count, double discount, double omega, bool exact) {
    void* values = address<void>(v);
    const int32_t* states = address<const int32_t>(order);
    py::gil_scoped_release release;
    return m.sweep(values, states, count, discount, omega, exact);
}

void action_values(Model& m, py::handle v, py::handle q, double discount) {
    const void* from = address<const void>(v);
    void* to = address<void>(q);
    py::gil_scoped_release release;
    m.action_values(from, to, discount);
}

std::unique_ptr<Model> chain(Model& m, py::handle action) { return m.chain(address<const int32_t>(action)); }

std::unique_ptr<Model> permuted(Model& m, py::handle order) { return m.permuted(address<const int32_t>(order)); }

std::unique_ptr<Prioritized> heap(Model& m, int bits, py::handle start, py::handle before, double discount,
                                  double tolerance) {
    return prioritized(m, bits == 64, address<const int64_t>(start), address<const int32_t>(before), discount,
                       tolerance);
}

std::pair<int64_t, int64_t> run(Prioritized& p, py::handle v, int64_t enough, int64_t most) {
    void* values = address<void>(v);
    py::gil_scoped_release release;
    return p.run(values, enough, most);
}

bool eliminate(Elimination& e, const Model& chain, double discount, py::handle reward, py::handle v, int64_t most) {
    const void* own = address<const void>(reward);
    void* values = address<void>(v);
    py::gil_scoped_release release;
    return e.solve(chain.links(), discount, own, values, most);
}

int64_t checks(const Several& each) {
    size_t most = 0;
    for (const Found& one : each.found()) most = std::max(most, one.history.size());
    return int64_t(most);
}

// numbers (models, 5): the two changes, and the bounds without and with rounding; counts (models, 2): steps and reason;
// history (models, checks), NaN after the end of a model
void copy_found(const Several& each, py::handle numbers, py::handle counts, py::handle history) {
    double *to = address<double>(numbers), *table = address<double>(history);
    int64_t* whole = address<int64_t>(counts);
    const int64_t most = checks(each);
    for (const Found& one : each.found()) {
        *to++ = one.change.low, *to++ = one.change.high;
        *to++ = one.bounds.low, *to++ = one.bounds.high, *to++ = one.bounds.rounding;
        *whole++ = one.steps, *whole++ = int64_t(one.reason);
        std::copy(one.history.begin(), one.history.end(), table);
        std::fill(table + one.history.size(), table + most, std::numeric_limits<double>::quiet_NaN());
        table += most;
    }
}

Judgement judgement_of(const py::tuple& x) {
    return {x[0].cast<int64_t>(), x[1].cast<double>(), x[2].cast<double>(), x[3].cast<double>()};
}

// judgement: None, or the members of Judgement
double left_of(const py::object& judgement, py::handle history, int64_t count, double tol) {
    const double* residuals = address<const double>(history);
    if (judgement.is_none()) return steps_left(residuals, count, tol);
    return steps_left(judgement_of(judgement), residuals, count, tol);
}

int64_t judged(const py::tuple& judgement, py::handle history, int64_t count, double tol) {
    return next_judgement(judgement_of(judgement), address<const double>(history), count, tol);
}

// vectors: v, w, action and order, each (models, states), order possibly None; numbers (models, 5): the smallest and
// the largest row sum, the largest reward, its doubt, and the largest |base|; how (models) bytes
std::unique_ptr<Several> several_of(int bits, const py::list& models, const py::tuple& vectors, py::handle numbers,
                                    py::handle how, const py::tuple& rule, bool are_small) {
    Rule all;
    all.discount = rule[0].cast<double>(), all.tol = rule[1].cast<double>(), all.sup = rule[2].cast<bool>();
    all.max_steps = rule[3].cast<int64_t>(), all.patience = rule[4].cast<int64_t>();
    all.policy_sweeps = rule[5].cast<int64_t>(), all.omega = rule[6].cast<double>(), all.exact = rule[7].cast<bool>();
    all.order = Order(rule[8].cast<int>());
    const int64_t longest = rule[9].cast<int64_t>();
    if (!rule[10].is_none()) all.judgement = judgement_of(rule[10]);
    const double* number = address<const double>(numbers);
    std::byte *v = address<std::byte>(py::handle(vectors[0])), *w = address<std::byte>(py::handle(vectors[1]));
    int32_t* action = address<int32_t>(py::handle(vectors[2]));
    const int32_t* order = address<const int32_t>(py::handle(vectors[3]));
    const uint8_t* chosen = address<const uint8_t>(how);
    std::vector<Item> items;
    for (py::handle model : models) {
        Accuracy accuracy(bits == 64, all.discount, number[0], number[1], number[2], longest);
        accuracy.doubt = number[3], accuracy.base = number[4], number += 5;
        Item item{model.cast<Model*>(), How(*chosen++), v, w, action, order, accuracy};
        const int64_t n = item.model->states();
        v += n * bits / 8, w += n * bits / 8, action += n;
        if (order) order += n;
        if (all.order != Order::given || item.how != How::gs) item.order = nullptr;
        items.push_back(item);
    }
    return with_float(bits, [&]<class T>() { return several<T>(std::move(items), all, are_small); });
}

// The bounds on V* from the least and the largest change of a sweep, and the largest |value|
std::tuple<double, double, double, double> bounds_of(const Accuracy& a, double low, double high, double size) {
    const Bounds found = a.bounds({low, high}, size);
    return {found.low, found.high, found.rounding, found.floor};
}

// base (states) float64, reward (rows)
double correct(int bits, int64_t states, const py::tuple& arrays, double discount, py::handle base, double most,
               py::handle reward) {
    const double* values = address<const double>(base);
    void* to = address<void>(reward);
    return with_process(bits, states, arrays, [&]<class T>(Process<T>& p) {
        p.discount = discount;
        py::gil_scoped_release release;
        return corrections(p, values, T(most), static_cast<T*>(to));
    });
}

// set: one of l1, interval, kl, chi2, contamination
std::pair<double, double> robust(int bits, int64_t states, const py::tuple& arrays, py::tuple vectors, double discount,
                                 int set, const py::tuple& shape, bool best, bool anywhere) {
    const Span span = with_process(bits, states, arrays, [&]<class T>(Process<T>& p) {
        p.discount = discount;
        RobustBackup<T> b{address<const T>(py::handle(vectors[0])), address<T>(py::handle(vectors[1]))};
        b.action = address<int32_t>(py::handle(vectors[2]));
        b.set = Set(set), b.radius = address<const double>(py::handle(shape[0]));
        b.low = address<const T>(py::handle(shape[1])), b.high = address<const T>(py::handle(shape[2]));
        b.sign = best ? -1 : 1, b.anywhere = anywhere;
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

} // namespace

void bind(py::module_& m) {
    py::class_<Model>(m, "Model")
        .def("backup", backup)
        .def("sweep", sweep)
        .def("action_values", action_values)
        .def("chain", chain)
        .def("entries", &Model::entries)
        .def("permuted", permuted)
        .def("transposed", &Model::transposed);
    py::class_<Accuracy>(m, "Accuracy")
        .def(py::init<bool, double, double, double, double, int64_t>())
        .def_readwrite("inexact", &Accuracy::inexact)
        .def_readwrite("doubt", &Accuracy::doubt)
        .def_readwrite("base", &Accuracy::base)
        .def("bounds", bounds_of)
        .def("symmetric", &Accuracy::symmetric)
        .def("sweep_error", &Accuracy::sweep_error)
        .def("reachable", &Accuracy::reachable);
    py::class_<Prioritized>(m, "Prioritized").def("run", run);
    py::class_<Elimination>(m, "Elimination")
        .def(py::init([] { return elimination(); }))
        .def("solve", eliminate)
        .def("operations", &Elimination::operations);
    py::class_<Several>(m, "Several")
        .def("run", &Several::run, py::call_guard<py::gil_scoped_release>())
        .def("checks", checks)
        .def("copy", copy_found);
    m.def("model", model);
    m.def("several", several_of);
    m.def("prioritized", heap, py::keep_alive<0, 1>());
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
    m.def("project", project);
}

} // namespace fastiter::mdp
