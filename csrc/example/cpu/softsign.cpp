// x / (1 + |x|), elementwise.
#include "core/cpu/simd.hpp"
#include "core/cpu/tile.hpp"
#include "example/cpu/kernels.hpp"

namespace fastiter::example::FASTITER_LEVEL {
namespace {

template <class T> void softsign(const Softsign<T>& p, Team team) {
    const Range mine = share(ceil_div(p.n, lanes<T>), team.id, team.size);
    for (int64_t i = mine.begin * lanes<T>; i < min_of(p.n, mine.end * lanes<T>); i += lanes<T>) {
        const vec<T> x = load_up_to(p.x + i, p.n - i);
        store_up_to(p.y + i, x / (magnitude<T>(x) + T(1)), p.n - i);
    }
}

} // namespace

const Kernels kernels = {softsign<float>, softsign<double>};

} // namespace fastiter::example::FASTITER_LEVEL
