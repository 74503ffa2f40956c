// Codes of small floats, and packing of codes of any width into bytes.
#include "quant/cpu/quantize.hpp"
#include "quant/cpu/significand.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

template <class T> struct unsigned_of {
    using type = uint32_t;
};
template <> struct unsigned_of<double> {
    using type = uint64_t;
};

// Codes of numbers y that are already rounded to the format: only bits are moved. Deep: some subnormal numbers of T are
// normal in the format.
template <class T, bool Deep, class Code> void float_codes(const SmallFloat& s, const T* y, int64_t n, Code* out) {
    using U = typename unsigned_of<T>::type;
    constexpr U sign = U(1) << (8 * sizeof(T) - 1), hidden = U(1) << kMantissa<T>;
    constexpr U infinity = U(2 * kBias<T> + 1) << kMantissa<T>;
    const uint64_t minus = s.is_signed ? uint64_t(1) << (s.bits - 1) : 0;
    for (int64_t i = 0; i < n; ++i) {
        const U bits = __builtin_bit_cast(U, y[i]), a = bits & ~sign;
        const int field = int(a >> kMantissa<T>);
        int e = field ? field - kBias<T> : 1 - kBias<T>;
        U significand = (a & (hidden - 1)) | (field ? hidden : 0);
        if constexpr (Deep)
            if (significand && !field) {
                const int up = __builtin_clzll(significand) - (63 - kMantissa<T>);
                significand <<= up;
                e -= up;
            }
        const int places = kMantissa<T> - s.mantissa, below = s.min_exponent - e;
        uint64_t code;
        if (a >= infinity)
            code = a > infinity ? s.nan_code : s.infinity_code;
        else if (below > 0 || significand < hidden) // subnormal: in units of the smallest normal number's last place
            code = places + below < int(8 * sizeof(T)) ? uint64_t(significand >> (places + below)) : 0;
        else
            code = (uint64_t(int(s.has_zero) - below) << s.mantissa) | uint64_t((significand & (hidden - 1)) >> places);
        if ((bits & sign) && a <= infinity) code |= minus;
        out[i] = Code(code);
    }
}

// For y that hold 64-bit codes in place of doubles
template <class T, class Code> void low_bits(const T* y, int64_t n, Code* out) {
    if constexpr (sizeof(T) == 8)
        for (int64_t i = 0; i < n; ++i) out[i] = Code(__builtin_bit_cast(uint64_t, y[i]));
}

template <class Code> void pack(const Code* codes, int64_t n, int bits, uint8_t* out) {
    const uint64_t ones = bits == 64 ? UINT64_MAX : (uint64_t(1) << bits) - 1;
    unsigned __int128 buffer = 0;
    int count = 0;
    for (int64_t i = 0; i < n; ++i) {
        buffer |= (unsigned __int128)(uint64_t(codes[i]) & ones) << count;
        for (count += bits; count >= 8; count -= 8, buffer >>= 8) *out++ = uint8_t(buffer);
    }
    if (count > 0) *out = uint8_t(buffer);
}

template <class Code> void unpack(const uint8_t* from, int64_t n, int bits, bool is_signed, Code* codes) {
    const uint64_t ones = bits == 64 ? UINT64_MAX : (uint64_t(1) << bits) - 1, top = uint64_t(1) << (bits - 1);
    unsigned __int128 buffer = 0;
    int count = 0;
    for (int64_t i = 0; i < n; ++i) {
        for (; count < bits; count += 8) buffer |= (unsigned __int128)(*from++) << count;
        uint64_t code = uint64_t(buffer) & ones;
        if (is_signed && (code & top)) code |= ~ones;
        codes[i] = Code(code);
        buffer >>= bits;
        count -= bits;
    }
}

template <class Code> void lines(const PackJob& job, Code* first, int64_t begin, int64_t end) {
    const int64_t bytes = ceil_div(job.n * job.bits, 8);
    for (int64_t line = begin; line < end; ++line) {
        Code* codes = first + line * job.n;
        uint8_t* packed = job.packed + line * bytes;
        if (job.unpack)
            unpack(packed, job.n, job.bits, job.is_signed, codes);
        else
            pack(codes, job.n, job.bits, packed);
    }
}

template <class F> void with_code(Element type, void* out, int64_t first, F f) {
    with_size<uint8_t, uint16_t, uint32_t, uint64_t>(element_bytes(type),
                                                     [&]<class Code>() { f(static_cast<Code*>(out) + first); });
}

} // namespace

template <class T>
void store_codes(const QuantFormat& f, const T* y, int64_t n, Element type, int64_t first, void* out) {
    switch (f.kind) {
    case Kind::wide_fixed:
        return with_code(type, out, first, [&](auto* codes) { low_bits(y, n, codes); });
    case Kind::small_float:
    case Kind::wide_float:
    case Kind::mx:
    case Kind::nvfp4:
        return with_code(type, out, first, [&](auto* codes) {
            if (sizeof(T) == 8 && f.small.min_exponent < 1 - kBias<T>)
                float_codes<T, sizeof(T) == 8>(f.small, y, n, codes);
            else
                float_codes<T, false>(f.small, y, n, codes);
        });
    default:
        return narrow(y, n, type, first, out);
    }
}
template void store_codes(const QuantFormat&, const float*, int64_t, Element, int64_t, void*);
template void store_codes(const QuantFormat&, const double*, int64_t, Element, int64_t, void*);

void pack_codes(const PackJob& job, Team team) {
    const int64_t begin = job.lines * team.id / team.size, end = job.lines * (team.id + 1) / team.size;
    with_code(job.type, job.codes, 0, [&](auto* codes) { lines(job, codes, begin, end); });
}

} // namespace fastiter::quant::FASTITER_LEVEL
