// One step of a depthwise convolution.
#include "decode/cpu/context.hpp"

namespace fastiter::decode::FASTITER_LEVEL {

template <class T> void run(const Conv<T>& o, const Context<T>& c) {
    const int64_t C = o.out.size, before = o.saved - (o.width - 1);
    const Range r = c.numbers(C);
    for (int64_t b = 0; b < c.rows(); ++b) {
        const T* const x = c.of(o.x, b);
        T *const out = c.of(o.out, b), *const state = c.of(o.state, b);
        for_vectors<T>(r, [&](int64_t i, int64_t n) {
            const vec<T> last = load_up_to(x + i, n);
            vec<T> y = o.bias ? load_up_to(o.bias + i, n) : vec<T>{};
            for (int64_t k = 0; k < o.width - 1; ++k)
                y = fma(load_up_to(o.weight + k * C + i, n), load_up_to(state + (before + k) * C + i, n), y);
            y = fma(load_up_to(o.weight + (o.width - 1) * C + i, n), last, y);
            for (int64_t k = 0; k + 1 < o.saved; ++k)
                store_up_to(state + k * C + i, load_up_to(state + (k + 1) * C + i, n), n);
            store_up_to(state + (o.saved - 1) * C + i, last, n);
            store_up_to(out + i, y, n);
        });
        activate(o.activation, T(1), out + r.begin, out + r.begin, r.end - r.begin);
    }
}

template void run(const Conv<float>&, const Context<float>&);
template void run(const Conv<double>&, const Context<double>&);

} // namespace fastiter::decode::FASTITER_LEVEL
