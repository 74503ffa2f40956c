// Quantises one thread's part of an array: in one call if the kernel reads the elements directly, otherwise in
// pieces that stay in the first-level cache, converted and scaled before and after.
#include "quant/cpu/quantize.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

constexpr int64_t kPiece = 1024;
static_assert(kPiece >= kLongestBlock);

template <class T> QuantKernel<T> kernel_of(const QuantFormat& f) {
    switch (f.kind) {
    case Kind::fixed:
        return fixed_kernel<T>(f);
    case Kind::small_float:
        return float_kernel<T>(f);
    case Kind::posit:
        return posit_kernel<T>(f);
    case Kind::table:
    case Kind::logarithmic:
        return table_kernel<T>(f);
    case Kind::powers:
        return powers_kernel<T>(f);
    case Kind::wide_fixed:
    case Kind::wide_float:
        if constexpr (sizeof(T) == 8) return f.kind == Kind::wide_fixed ? wide_fixed : wide_float;
        return nullptr; // this kind is only used with doubles
    default:
        return block_kernel<T>(f);
    }
}

template <class T> constexpr Element element_of = sizeof(T) == 4 ? Element::f32 : Element::f64;

// Expands the scales of elements [first, first + n) to one scale per element.
template <class T> void spread(const void* from, const Scaling& s, int64_t first, int64_t n, T* out) {
    const T* scales = static_cast<const T*>(from);
    for (int64_t i = 0; i < n;) {
        const int64_t at = (first + i) / s.run, end = min_of(n, (at + 1) * s.run - first);
        const T scale = scales[at % s.count];
        for (; i < end; ++i) out[i] = scale;
    }
}

template <class T> struct Buffers {
    alignas(64) T in[kPiece];
    alignas(64) T out[kPiece];
    alignas(64) T scale[kPiece];
    alignas(64) T zero_point[kPiece];
    alignas(64) uint32_t words[kPiece + 128];
};

// Replaces NaN before the division by the scale.
template <class T> const T* without_nan(const T* x, int64_t n, T nan, T* out, QuantCounts& counts) {
    for (int64_t i = 0; i < n; ++i) {
        counts.nan += x[i] != x[i];
        out[i] = x[i] != x[i] ? nan : x[i];
    }
    return out;
}

// Elements [first, first + n) of the array, at most one piece
template <class T>
void piece(const QuantJob& job, const QuantFormat& f, QuantKernel<T> kernel, int64_t first, int64_t n, bool stream,
           Buffers<T>& b, QuantCounts& counts) {
    const Scaling& s = job.scaling;
    const bool as_is_x = job.x_type == element_of<T>;
    const bool as_is_y = job.y_type == element_of<T> && !f.codes;
    const T* x = static_cast<const T*>(job.x) + first;
    if (!as_is_x) {
        widen(job.x, job.x_type, first, n, b.in);
        x = b.in;
    }
    T* y = as_is_y ? static_cast<T*>(job.y) + first : b.out;
    const uint32_t* random = nullptr;
    if (f.rounding == Rounding::stochastic) { // whole groups of 64, from the group in which the piece begins
        const int64_t before = first % 64;
        prefetch(x, n); // x is loaded while the random numbers are computed
        random_numbers(job.seed, uint64_t(first - before), n + before, b.words);
        random = b.words + before;
    }
    if (s.scale) {
        spread(s.scale, s, first, n, b.scale);
        if (f.nan == f.nan) x = without_nan(x, n, T(f.nan), b.in, counts);
        if (s.in_float)
            for (int64_t i = 0; i < n; ++i) b.in[i] = T(float(x[i]) / float(b.scale[i]));
        else
            for (int64_t i = 0; i < n; ++i) b.in[i] = x[i] / b.scale[i];
        x = b.in;
    }
    if (s.zero_point) {
        spread(s.zero_point, s, first, n, b.zero_point);
        shifted_integers(f, x, b.zero_point, y, n, random, counts);
    } else {
        kernel(f, x, y, n, random, counts, stream);
    }
    if (s.scale && !f.codes) {
        if (s.in_float)
            for (int64_t i = 0; i < n; ++i) y[i] = T(float(y[i]) * float(b.scale[i]));
        else
            for (int64_t i = 0; i < n; ++i) y[i] *= b.scale[i];
    }
    if (f.codes)
        store_codes(f, y, n, job.y_type, first, job.y);
    else if (!as_is_y)
        narrow(y, n, job.y_type, first, job.y);
}

// Elements [begin, end), within one line if there are blocks
template <class T> void part(const QuantJob& job, int64_t begin, int64_t end, QuantCounts& counts) {
    QuantFormat f = job.format;
    const QuantKernel<T> kernel = kernel_of<T>(f);
    const bool as_is = job.x_type == element_of<T> && job.y_type == element_of<T> && !f.codes;
    const bool stream = as_is && !job.scaling.scale && job.lines * job.n * int64_t(sizeof(T)) > kStreamFrom;
    const int64_t block = max_of(f.block.size, 1), per_line = ceil_div(job.n, block);
    char* const scales = static_cast<char*>(f.block.scales);
    const int64_t scale_bytes = f.kind == Kind::table ? int64_t(sizeof(T)) : 1;
    auto scales_from = [&](int64_t i) {
        if (scales) f.block.scales = scales + (i / job.n * per_line + i % job.n / block) * scale_bytes;
    };
    if (as_is && f.rounding != Rounding::stochastic && !job.scaling.scale && !job.scaling.zero_point) {
        scales_from(begin);
        kernel(f, static_cast<const T*>(job.x) + begin, static_cast<T*>(job.y) + begin, end - begin, nullptr, counts,
               stream);
        return;
    }
    Buffers<T> buffers;
    const int64_t size = kPiece / block * block;
    for (int64_t i = begin; i < end; i += size) {
        scales_from(i);
        piece(job, f, kernel, i, min_of(size, end - i), stream, buffers, counts);
    }
}

// Threads share the lines if the blocks do not divide them evenly, otherwise pieces of the whole array.
void run(const QuantJob& job, Team team) {
    QuantCounts counts;
    auto elements = [&](int64_t begin, int64_t end) {
        if (begin >= end) return;
        if (job.in_double)
            part<double>(job, begin, end, counts);
        else
            part<float>(job, begin, end, counts);
    };
    const int64_t block = max_of(job.format.block.size, 1);
    if (job.n % block != 0 && job.lines > 1) {
        const int64_t last = job.lines * (team.id + 1) / team.size;
        for (int64_t line = job.lines * team.id / team.size; line < last; ++line)
            elements(line * job.n, (line + 1) * job.n);
    } else {
        const int64_t size = kPiece / block * block * 16, all = job.lines * job.n, pieces = ceil_div(all, size);
        elements(pieces * team.id / team.size * size, min_of(all, pieces * (team.id + 1) / team.size * size));
    }
    stream_fence();
    job.counts[team.id] = counts;
}

} // namespace

const Kernels kernels = {run, pack_codes, random_numbers, quant_gradient};

} // namespace fastiter::quant::FASTITER_LEVEL
