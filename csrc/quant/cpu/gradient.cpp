// The straight-through gradient of rounding, and the sum for the gradient of a scale.
#include "quant/cpu/quantize.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

// Every instruction set uses the same number of partial sums, so that results are bitwise the same.
template <class T> constexpr int64_t kPlaces = 64 / int64_t(sizeof(T));

template <class T, bool Sum> double part(const QuantGradientJob& job, int64_t begin, int64_t end) {
    constexpr int64_t W = lanes<T>, count = kPlaces<T> / W;
    const T *dy = static_cast<const T*>(job.dy), *x = static_cast<const T*>(job.x), *y = static_cast<const T*>(job.y);
    T* dx = static_cast<T*>(job.dx);
    const vec<T> low = broadcast(T(job.low)), high = broadcast(T(job.high)), zero{};
    const mask<T> all = job.limited ? mask<T>{} : ~mask<T>{}, passed = job.clip ? mask<T>{} : ~mask<T>{};
    vec<T> sums[count] = {};
    auto one = [&](int64_t i, vec<T>& sum) {
        const int64_t n = end - i;
        if (n <= 0) return;
        const vec<T> g = load_up_to(dy + i, n), v = load_up_to(x + i, n);
        const mask<T> inside = all | ((v >= low) & (v <= high));
        store_up_to(dx + i, select<T>(inside | passed, g, zero), n);
        if constexpr (Sum) sum += g * (load_up_to(y + i, n) - select<T>(inside, v, zero));
    };
    for (int64_t i = begin; i < end; i += kPlaces<T>)
        for (int64_t k = 0; k < count; ++k) one(i + k * W, sums[k]);
    double total = 0;
    for (const vec<T>& sum : sums)
        for (int64_t k = 0; k < W; ++k) total += double(sum[k]);
    return total;
}

} // namespace

void quant_gradient(const QuantGradientJob& job, Team team) {
    const int64_t parts = ceil_div(job.n, kGradientPart), last = parts * (team.id + 1) / team.size;
    for (int64_t p = parts * team.id / team.size; p < last; ++p) {
        const int64_t begin = p * kGradientPart, end = min_of(job.n, begin + kGradientPart);
        if (!job.sums)
            job.in_double ? part<double, false>(job, begin, end) : part<float, false>(job, begin, end);
        else
            job.sums[p] = job.in_double ? part<double, true>(job, begin, end) : part<float, true>(job, begin, end);
    }
}

} // namespace fastiter::quant::FASTITER_LEVEL
