// The learners of fastiter.relax's tuners. They keep the addresses of their arrays, which the caller must keep alive.
#include "core/arguments.hpp"
#include "relax/tuners.hpp"
#include <algorithm>

namespace fastiter::relax {
namespace {

Tsallis tsallis(int64_t arms, py::handle estimate, py::handle total, py::handle rounds, py::handle chance,
                py::handle pending, py::handle generator) {
    return {arms,
            {address<double>(estimate), address<double>(total), address<int64_t>(rounds), address<double>(chance),
             address<int64_t>(pending), address<uint64_t>(generator)}};
}

Chebyshev chebyshev(int64_t arms, int64_t terms, double lebesgue, py::handle gram, py::handle moment, py::handle square,
                    py::handle theta, py::handle misfit, py::handle feature, py::handle numbers, py::handle rounds,
                    py::handle pending, py::handle generator) {
    return {arms,
            terms,
            lebesgue,
            {address<double>(gram), address<double>(moment), address<double>(square), address<double>(theta),
             address<double>(misfit), address<double>(feature), address<double>(numbers), address<int64_t>(rounds),
             address<int64_t>(pending), address<uint64_t>(generator)}};
}

template <class Learner, class Context> void probabilities(Learner& learner, Context context, py::handle out) {
    const std::vector<double>& p = learner.probabilities(context);
    std::copy(p.begin(), p.end(), address<double>(out));
}

} // namespace

void bind_tuners(py::module_& m) {
    py::class_<Tsallis>(m, "Tsallis")
        .def(py::init(&tsallis))
        .def("probabilities", probabilities<Tsallis, int64_t>)
        .def("predict", &Tsallis::predict)
        .def("update", &Tsallis::update);
    py::class_<Chebyshev>(m, "Chebyshev")
        .def(py::init(&chebyshev))
        .def("probabilities", probabilities<Chebyshev, double>)
        .def("predict", &Chebyshev::predict)
        .def("update", &Chebyshev::update);
}

} // namespace fastiter::relax
