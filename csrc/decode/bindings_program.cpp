// The programs of fastiter._core. python/fastiter/decode/_program.py describes plans and has checked types and shapes.
#include "core/arguments.hpp"
#include "decode/packed.hpp"
#include "decode/program.hpp"
#include <optional>
#include <pybind11/stl.h>
#include <tuple>

namespace fastiter::decode {
namespace {

// A program, and the matrices that it reads
class Holder {
public:
    // buffers: (name, size); states: (name, whether it grows, shape); operations: (kind, slots, integers, reals,
    // vectors, matrices, states), in which a slot is (buffer, start, size) or None, and a vector float64 or None
    Holder(int bits, int64_t rows, const py::list& buffers, const py::list& states, const py::list& operations) {
        PlanSpec plan;
        plan.rows = rows;
        for (const py::handle& x : buffers) {
            const auto [name, size] = x.cast<std::pair<std::string, int64_t>>();
            plan.buffers.push_back({name, size});
        }
        for (const py::handle& x : states) {
            const auto [name, grows, shape] = x.cast<std::tuple<std::string, bool, std::vector<int64_t>>>();
            plan.states.push_back({name, grows, shape});
        }
        for (const py::handle& x : operations) plan.operations.push_back(description_of(x.cast<py::tuple>()));
        program_ = program_of(bits, std::move(plan));
    }

    // positions and firsts (rows) and states are arrays of int64; firsts may be None.
    void step(py::handle tokens, py::handle positions, py::handle firsts, int64_t length, int64_t capacity,
              py::handle states, py::handle logits) {
        const Places places = places_of(tokens, positions, firsts, length, capacity, states);
        const int64_t* const from = address<const int64_t>(tokens);
        void* const to = address<void>(logits);
        py::gil_scoped_release release;
        program_->step(places, from, to);
    }

    // sampling: temperature, top_k, top_p, min_p, repetition_penalty
    int64_t generate(py::handle tokens, py::handle positions, py::handle firsts, int64_t length, int64_t capacity,
                     py::handle states, const std::tuple<double, int64_t, double, double, double>& sampling,
                     py::handle uniform, py::handle stops, int64_t pad, py::handle seen, py::handle out) {
        const Places places = places_of(tokens, positions, firsts, length, capacity, states);
        Generation g;
        const Array to(out.ptr()), ends(stops.ptr());
        g.first = address<const int64_t>(tokens);
        g.count = to.size(1);
        g.out = to.data<int64_t>();
        std::tie(g.sampling.temperature, g.sampling.top_k, g.sampling.top_p, g.sampling.min_p,
                 g.sampling.repetition_penalty) = sampling;
        g.uniform = address<const double>(uniform);
        g.stops = ends.data<const int64_t>();
        g.stop_count = ends.size(0);
        g.pad = pad;
        const Array earlier(seen.ptr());
        g.seen = earlier.data<const int64_t>();
        g.seen_count = earlier.size(1);
        py::gil_scoped_release release;
        return program_->generate(places, g);
    }

    void set_threads(int threads) { program_->set_threads(threads); }
    int64_t vocabulary() const { return program_->vocabulary(); }
    std::vector<int64_t> waits() const { return program_->waits(); }
    int64_t bytes() const { return program_->bytes(); }

private:
    Description description_of(const py::tuple& x) {
        Description o;
        const int kind = x[0].cast<int>();
        if (kind < 0 || kind >= kKinds)
            throw py::value_error("Program: the kind must be below " + std::to_string(kKinds) + ", got " +
                                  std::to_string(kind));
        o.kind = Kind(kind);
        for (const auto& slot : x[1].cast<std::vector<std::optional<std::tuple<int64_t, int64_t, int64_t>>>>())
            o.slots.push_back(slot ? Slot{std::get<0>(*slot), std::get<1>(*slot), std::get<2>(*slot)} : Slot{});
        o.integers = x[2].cast<std::vector<int64_t>>();
        o.reals = x[3].cast<std::vector<double>>();
        for (const py::handle& vector : x[4].cast<py::list>()) {
            o.vectors.emplace_back();
            if (vector.is_none()) continue;
            const Array numbers(vector.ptr());
            o.vectors.back().assign(numbers.data<const double>(),
                                    numbers.data<const double>() + numbers.bytes() / sizeof(double));
        }
        for (const py::handle& matrix : x[5].cast<py::list>()) {
            matrices_.push_back(matrix.cast<std::shared_ptr<PackedMatrix>>());
            o.matrices.push_back(matrices_.back()->view());
        }
        o.states = x[6].cast<std::vector<int64_t>>();
        return o;
    }

    static Places places_of(py::handle tokens, py::handle positions, py::handle firsts, int64_t length,
                            int64_t capacity, py::handle states) {
        Places p;
        const Array rows(tokens.ptr()), addresses(states.ptr());
        p.rows = int(rows.size(0));
        p.positions = address<const int64_t>(positions);
        p.firsts = address<const int64_t>(firsts);
        p.length = length;
        p.capacity = capacity;
        p.states = addresses.data<void* const>();
        p.state_count = addresses.size(0);
        return p;
    }

    std::vector<std::shared_ptr<PackedMatrix>> matrices_;
    std::unique_ptr<Program> program_;
};

} // namespace

void bind_program(py::module_& m) {
    py::class_<Holder>(m, "Program")
        .def(py::init<int, int64_t, const py::list&, const py::list&, const py::list&>())
        .def("step", &Holder::step)
        .def("generate", &Holder::generate)
        .def("set_threads", &Holder::set_threads)
        .def_property_readonly("vocabulary", &Holder::vocabulary)
        .def_property_readonly("waits", &Holder::waits)
        .def_property_readonly("nbytes", &Holder::bytes);
}

} // namespace fastiter::decode
