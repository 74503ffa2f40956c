// A thread's part of an array through a kernel: whole where the kernel takes the elements as they are, else in pieces that
// stay in the first cache, converted before and after.
#include "quant.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

constexpr int64_t kPiece = 1024; // a multiple of a group of random numbers

template <class T> QuantKernel<T> kernel_of(const QuantFormat& f) {
    if constexpr (sizeof(T) == 8)
        if (f.kind == Kind::wide_fixed) return wide_fixed;
    return fixed_kernel<T>(f);
}

template <class T> constexpr Element element_of = sizeof(T) == 4 ? Element::f32 : Element::f64;

template <class T> void part(const QuantJob& job, int64_t begin, int64_t end, QuantCounts& counts) {
    const QuantFormat& f = job.format;
    const QuantKernel<T> kernel = kernel_of<T>(f);
    const bool as_is_x = job.x_type == element_of<T>, as_is_y = job.y_type == element_of<T> && !f.codes;
    const bool random = f.rounding == Rounding::stochastic;
    const bool stream = as_is_y && job.n * int64_t(sizeof(T)) > kStreamFrom;
    const T* const x = static_cast<const T*>(job.x);
    T* const y = static_cast<T*>(job.y);
    if (as_is_x && as_is_y && !random) {
        kernel(f, x + begin, y + begin, end - begin, nullptr, counts, stream);
        return;
    }
    alignas(64) T in[kPiece];
    alignas(64) T out[kPiece];
    alignas(64) uint32_t words[kPiece];
    for (int64_t i = begin; i < end; i += kPiece) {
        const int64_t n = min_of(kPiece, end - i);
        if (!as_is_x) widen(job.x, job.x_type, i, n, in);
        if (random) random_numbers(job.seed, uint64_t(i), n, words);
        kernel(f, as_is_x ? x + i : in, as_is_y ? y + i : out, n, words, counts, stream);
        if (!as_is_y) narrow(out, n, job.y_type, i, job.y);
    }
}

void run(const QuantJob& job, Team team) {
    const int64_t pieces = ceil_div(job.n, kPiece);
    const int64_t begin = pieces * team.id / team.size * kPiece;
    const int64_t end = min_of(job.n, pieces * (team.id + 1) / team.size * kPiece);
    QuantCounts counts;
    if (job.in_double)
        part<double>(job, begin, end, counts);
    else
        part<float>(job, begin, end, counts);
    stream_fence();
    job.counts[team.id] = counts;
}

} // namespace

extern const QuantKernels quant_kernels = {run};

} // namespace fastiter::FASTITER_LEVEL
