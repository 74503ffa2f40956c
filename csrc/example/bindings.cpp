// The family example.
#include "core/arguments.hpp"
#include "core/launch.hpp"
#include "example/cpu/kernels.hpp"

namespace fastiter::example {
namespace {

void softsign(py::handle x, py::handle y, int64_t n) {
    with_float(Array(x.ptr()).bits(), [&]<class T>() {
        Softsign<T> p{address<const T>(x), address<T>(y), n};
        auto job = [](const void* params, Team team) {
            const auto& p = *static_cast<const Softsign<T>*>(params);
            if constexpr (sizeof(T) == 4)
                kernels().f32(p, team);
            else
                kernels().f64(p, team);
        };
        py::gil_scoped_release release;
        run(p, job, [&](int threads) { return n < 100000 ? 1 : threads; });
    });
}

} // namespace

void bind(py::module_& m) { m.def("softsign", softsign); }

} // namespace fastiter::example
