// Conversion of 16-bit elements and of codes, from and to the type that kernels compute in.
#include "quant/cpu/quantize.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

template <class To, class From> FASTITER_INLINE To bits_as(From x) {
    static_assert(sizeof(To) == sizeof(From));
    return __builtin_bit_cast(To, x);
}

// float16 has exponents -14 to 15 and 10 mantissa bits; its subnormals are multiples of 2^-24.
FASTITER_INLINE float from_half(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, body = h & 0x7fff;
    const float subnormal = float(body) * 0x1p-24f;
    const uint32_t normal = (body << 13) + (uint32_t(body >= 0x7c00 ? 255 - 31 : 127 - 15) << 23);
    return bits_as<float>(sign | (body < 0x400 ? bits_as<uint32_t>(subnormal) : normal));
}

FASTITER_INLINE uint16_t to_half(float x) {
    const uint32_t bits = bits_as<uint32_t>(x), body = bits & 0x7fffffff;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (body > 0x7f800000) return uint16_t(sign | 0x7e00 | (body >> 13 & 0x3ff));
    if (body >= 0x47800000) return sign | 0x7c00; // 2^16; what rounds up to it carries into infinity below
    if (body < 0x38800000)                        // 2^-14: the last place of the sum is 2^-24
        return uint16_t(sign | (bits_as<uint32_t>(bits_as<float>(body) + 0.5f) - bits_as<uint32_t>(0.5f)));
    const uint32_t rounded = body + 0xfff + (body >> 13 & 1);
    return uint16_t(sign | ((rounded >> 13) - ((127 - 15) << 10)));
}

FASTITER_INLINE float from_brain(uint16_t b) { return bits_as<float>(uint32_t(b) << 16); }

FASTITER_INLINE uint16_t to_brain(float x) {
    const uint32_t bits = bits_as<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return uint16_t(x != x ? (bits >> 16 | 0x40) : rounded);
}

// Intermediate float of a conversion to 16 bits. A double is rounded to odd, so that rounding twice is correct.
FASTITER_INLINE float halfway(float x) { return x; }
FASTITER_INLINE float halfway(double x) {
    const float near = float(x);
    const uint32_t bits = bits_as<uint32_t>(near);
    if (double(near) == x || x != x || (bits & 1)) return near;
    const bool too_large = (near < 0 ? -double(near) : double(near)) > (x < 0 ? -x : x);
    return bits_as<float>(too_large ? bits - 1 : bits + 1);
}

template <class T, class E> void from_integers(const T* x, int64_t n, E* out) {
    using Whole = decltype(mask<T>{}[0] + 0);
    for (int64_t i = 0; i < n; ++i) out[i] = E(Whole(x[i]));
}

} // namespace

template <class T> void widen(const void* x, Element type, int64_t first, int64_t n, T* out) {
    const auto* floats = static_cast<const float*>(x) + first;
    const auto* halves = static_cast<const uint16_t*>(x) + first;
    if (type == Element::f32)
        for (int64_t i = 0; i < n; ++i) out[i] = T(floats[i]);
    else if (type == Element::f16)
        for (int64_t i = 0; i < n; ++i) out[i] = T(from_half(halves[i]));
    else
        for (int64_t i = 0; i < n; ++i) out[i] = T(from_brain(halves[i]));
}

template <class T> void narrow(const T* x, int64_t n, Element type, int64_t first, void* out) {
    auto* halves = static_cast<uint16_t*>(out) + first;
    switch (type) {
    case Element::f32:
        for (int64_t i = 0; i < n; ++i) static_cast<float*>(out)[first + i] = float(x[i]);
        break;
    case Element::f64:
        for (int64_t i = 0; i < n; ++i) static_cast<double*>(out)[first + i] = double(x[i]);
        break;
    case Element::f16:
        for (int64_t i = 0; i < n; ++i) halves[i] = to_half(halfway(x[i]));
        break;
    case Element::bf16:
        for (int64_t i = 0; i < n; ++i) halves[i] = to_brain(halfway(x[i]));
        break;
    case Element::i8:
    case Element::u8:
        return from_integers(x, n, static_cast<uint8_t*>(out) + first);
    case Element::i16:
    case Element::u16:
        return from_integers(x, n, halves);
    case Element::i32:
    case Element::u32:
        return from_integers(x, n, static_cast<uint32_t*>(out) + first);
    case Element::i64:
    case Element::u64:
        return from_integers(x, n, static_cast<uint64_t*>(out) + first);
    }
}

template void widen(const void*, Element, int64_t, int64_t, float*);
template void widen(const void*, Element, int64_t, int64_t, double*);
template void narrow(const float*, int64_t, Element, int64_t, void*);
template void narrow(const double*, int64_t, Element, int64_t, void*);

} // namespace fastiter::quant::FASTITER_LEVEL
