// Discrete-ordinates sweeps: vector lanes are directions, and cells are visited in order.
#include "fixedpoint/cpu/transport.hpp"
#include "core/cpu/simd.hpp"
#include "fixedpoint/cpu/sums.hpp"

namespace fastiter::fixedpoint::FASTITER_LEVEL {
namespace {

// Sweeps the directions [first, first + count), count <= lanes, through the cells from `begin` in steps of +1 or -1,
// and adds their contribution to phi.
template <class T>
void directions_of(const Transport<T>& p, int64_t item, int64_t first, int64_t count, int64_t begin, int64_t step) {
    vec<T> cosines = broadcast(T(2)), used{}; // unused lanes must not divide by 0
    for (int64_t k = 0; k < min_of(count, lanes<T>); ++k) {
        cosines[k] = 2 * p.cosine[first + k];
        used[k] = T(1);
    }
    const mask<T> is_used = used > vec<T>{};
    const vec<T> weights = T(0.5) * load_up_to(p.weight + first, count);
    const T *source = p.source + item * p.cells, *sigma = p.sigma + item * p.cells;
    T* phi = p.phi + item * p.cells;
    vec<T> psi = load_up_to(p.incoming + item * p.directions + first, count);
    for (int64_t k = 0, i = begin; k < p.cells; ++k, i += step) {
        const T thickness = sigma[i] * p.width[i];
        const vec<T> inverse = T(1) / (cosines + thickness);
        const vec<T> next = fma((cosines - thickness) * inverse, psi, (p.width[i] * source[i]) * inverse);
        phi[i] += sum_of<T>(select<T>(is_used, weights * (psi + next), vec<T>{}));
        psi = next;
    }
    store_up_to(p.outgoing + item * p.directions + first, psi, count);
}

template <class T> void sweep(const Transport<T>& p, Team team) {
    constexpr int64_t W = lanes<T>;
    const int64_t begin = p.batch * team.id / team.size, end = p.batch * (team.id + 1) / team.size;
    for (int64_t item = begin; item < end; ++item) {
        for (int64_t i = 0; i < p.cells; ++i) p.phi[item * p.cells + i] = T(0);
        for (int64_t first = 0; first < p.forward; first += W) directions_of(p, item, first, p.forward - first, 0, 1);
        for (int64_t first = p.forward; first < p.directions; first += W)
            directions_of(p, item, first, p.directions - first, p.cells - 1, -1);
        if (has_to_stop(team, 8 * p.cells * ceil_div(p.directions, W))) return;
    }
}

} // namespace

extern const Transports transports{{sweep<float>}, {sweep<double>}};

} // namespace fastiter::fixedpoint::FASTITER_LEVEL
