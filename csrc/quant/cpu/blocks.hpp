// Formats with a shared scale per block: the scale comes from the block's largest magnitude, then the elements are
// rounded.
#pragma once
#include "quant/cpu/quantize.hpp"
#include "quant/cpu/significand.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

// ---- vectors of 16 bytes for each of several blocks ----------------------------------------------------------------

// Number of blocks whose scales are computed together: each block has a 16-byte part of the vector.
constexpr int kTogether = kVectorBytes / 16;
template <class T> constexpr int kPart = 16 / int(sizeof(T));

// Elementwise maximum of the two halves of a, then of b; and of neighbouring parts of a, then of b
template <class M, size_t... I> FASTITER_INLINE M larger_halves(M a, M b, std::index_sequence<I...>) {
    constexpr size_t n = sizeof...(I), half = n / 2;
    return larger(__builtin_shufflevector(a, b, int(I < half ? I : I + half)...),
                  __builtin_shufflevector(a, b, int(I < half ? I + half : I + n)...));
}
template <class M, size_t... I> FASTITER_INLINE M larger_parts(M a, M b, std::index_sequence<I...>) {
    constexpr size_t part = sizeof...(I) / kTogether;
    return larger(__builtin_shufflevector(a, b, int(I + I / part * part)...),
                  __builtin_shufflevector(a, b, int(I + I / part * part + part)...));
}

// The largest lane of each vector m[i], in all lanes of part i
template <class T> FASTITER_INLINE mask<T> largest_of_each(const mask<T> (&m)[kTogether]) {
    constexpr auto all = std::make_index_sequence<size_t(lanes<T>)>();
    mask<T> r = m[0];
    if constexpr (kTogether == 4) r = larger_parts(larger_halves(m[0], m[1], all), larger_halves(m[2], m[3], all), all);
    if constexpr (kTogether == 2) r = larger_halves(m[0], m[1], all);
    r = larger(r, exchanged(r, 1, all));
    if constexpr (sizeof(T) == 4) r = larger(r, exchanged(r, 2, all));
    return r;
}

template <class T> constexpr Bits<T> kInfinity = bits_of_power<T>(kBias<T> + 1);

// ---- scales: from the bits of the largest magnitude to the factor of the elements; one block per lane ---------------

// 2^k with k = (exponent of the largest magnitude, plus one if its significand carries) - (exponent of the largest
// element)
template <class T> struct PowerScale {
    static constexpr bool kExact = true; // except for numbers negligible beside the largest
    static constexpr uint8_t kNan = 255;
    static constexpr Bits<T> kLargest = kInfinity<T> - 1; // larger bits mean that the block is NaN
    Bits<T> carry, offset;
    bool codes;
    vec<T> in, out; // 2^-k, 2^k
    mask<T> code;

    explicit PowerScale(const QuantFormat& f) : codes(f.codes) {
        const Bits<T> one = Bits<T>(1) << kMantissa<T>;
        const Bits<T> from =
            f.block.carry_from >= 2 ? one : __builtin_bit_cast(Bits<T>, T(f.block.carry_from)) & (one - 1);
        carry = one - 1 - (from - !f.block.beyond);
        offset = kBias<T> + f.block.max_exponent;
    }

    FASTITER_INLINE void find(mask<T> largest) {
        constexpr int highest = 127;
        const mask<T> carried =
            (mask<T>)((raw_bits<T>)largest + (raw_bits<T>)all_bits<T>(carry)); // wraps around for NaN
        const mask<T> exponent = (carried >> kMantissa<T>)-offset;
        mask<T> k = exponent < -highest ? all_bits<T>(-highest) : exponent > highest ? all_bits<T>(highest) : exponent;
        in = power(-k);
        out = power(k);
        code = k + highest;
    }
    // For floats, 2^-127 is the only one of these powers that is subnormal.
    static FASTITER_INLINE vec<T> power(mask<T> e) {
        const mask<T> field = e + kBias<T>;
        const mask<T> bits = field << kMantissa<T>;
        return (vec<T>)(field == 0 ? all_bits<T>(Bits<T>(1) << (kMantissa<T> - 1)) : bits);
    }
    FASTITER_INLINE vec<T> before(vec<T> x) const { return x * in; }
    FASTITER_INLINE vec<T> after(vec<T> q) const { return codes ? q : q * out; }
};

// The scale s in e4m3fn, from (largest / 6) / g; x / (s g), then (q s) g. Every operation rounds once.
template <class T> struct SmallFloatScale {
    static constexpr bool kExact = false;
    static constexpr uint8_t kNan = 127;
    static constexpr Bits<T> kLargest = kInfinity<T>; // infinity saturates
    Significand<T> e4m3{3, -6, true};
    vec<T> g, in, out; // in: s g, out: s
    bool codes, plain; // g is 1
    mask<T> code;

    explicit SmallFloatScale(const QuantFormat& f)
        : g(broadcast(T(f.block.scale))), codes(f.codes), plain(f.block.scale == 1) {}

    FASTITER_INLINE void find(mask<T> largest) {
        const vec<T> sixth = (vec<T>)largest / T(6);
        const vec<T> wanted = at_most<T>(at_least<T>(plain ? sixth : sixth / g, T(0x1p-9)), T(448));
        out = to_significand<T, Rounding::even>(wanted, random_words<T>{}, e4m3, vec<T>{});
        in = out * g;
        const mask<T> field = ((mask<T>)out >> (kMantissa<T> - 3)) - ((kBias<T> - 7) << 3);
        code = out < T(0x1p-6) ? __builtin_convertvector(out * T(0x1p9), mask<T>) : field;
    }
    FASTITER_INLINE vec<T> before(vec<T> x) const { return x / in; }
    FASTITER_INLINE vec<T> after(vec<T> q) const { return codes ? q : q * out * g; }
};

// ---- elements ------------------------------------------------------------------------------------------------------

template <class T, Rounding R> struct FloatElement {
    Significand<T> significand;
    vec<T> bound, zero;
    explicit FloatElement(const QuantFormat& f)
        : significand(f.small.mantissa, f.small.min_exponent, true), bound(broadcast(T(f.small.largest))),
          zero(broadcast(T(f.small.negative_zero ? -0.0 : 0.0))) {}
    FASTITER_INLINE vec<T> round(vec<T> v, random_words<T> random) const {
        return to_significand<T, R>(v, random, significand, zero);
    }
    FASTITER_INLINE vec<T> value(vec<T> r) const { return r; }
};

template <class T, Rounding R> struct IntegerElement {
    vec<T> to_code, bound;
    explicit IntegerElement(const QuantFormat& f)
        : to_code(broadcast(T(f.fixed.to_code))), bound(broadcast(T(f.fixed.highest))),
          from_code(broadcast(T(f.fixed.from_code))) {}
    FASTITER_INLINE vec<T> round(vec<T> v, random_words<T> random) const { return whole<T, R>(v * to_code, random); }
    FASTITER_INLINE vec<T> value(vec<T> r) const { return fma(r, from_code, vec<T>{}); }

private:
    vec<T> from_code;
};

// ---- blocks --------------------------------------------------------------------------------------------------------

// Per lane, the bits of the largest magnitude; the bits of NaN exceed those of infinity.
template <class T> FASTITER_INLINE mask<T> largest_magnitudes(const T* x, int64_t n) {
    mask<T> m{};
    int64_t i = 0;
    for (; i + lanes<T> <= n; i += lanes<T>) m = larger(m, (mask<T>)magnitude_of<T>(load(x + i)));
    if (i < n) m = larger(m, (mask<T>)magnitude_of<T>(load_first(x + i, int(n - i))));
    return m;
}

// Directed rounding must still see a nonzero number whose quotient underflows in T.
template <class T, class Scale, Rounding R> FASTITER_INLINE vec<T> not_lost(vec<T> v, vec<T> x) {
    if constexpr (Scale::kExact && (R == Rounding::up || R == Rounding::down || R == Rounding::away))
        return select<T>((v == T(0)) & (x != T(0)),
                         copy_sign<T>((vec<T>)all_bits<T>(bits_of_power<T>(1 - kBias<T>)), x), v);
    return v;
}

// The rounded number, before it is clamped to the range
template <class T, class Scale, template <class, Rounding> class Element, Rounding R>
FASTITER_INLINE vec<T> rounded(const Scale& scale, const Element<T, R>& element, vec<T> v, const uint32_t* random) {
    random_words<T> words{};
    if constexpr (R == Rounding::stochastic) words = load_random<T>(random);
    return element.round(not_lost<T, Scale, R>(scale.before(v), v), words);
}
template <class T, class Scale, template <class, Rounding> class Element, Rounding R>
FASTITER_INLINE vec<T> in_range(const Scale& scale, const Element<T, R>& element, vec<T> r) {
    return scale.after(element.value(min_keeping_nan(element.bound, max_keeping_nan(-element.bound, r))));
}

// Blocks of any size, one at a time, from the block that begins at i. With Full, NaN is counted and replaced.
template <class T, class Scale, template <class, Rounding> class Element, Rounding R, bool Full>
void one_by_one(const QuantFormat& f, const T* x, T* y, int64_t i, int64_t n, const uint32_t* random,
                QuantCounts& counts) {
    Scale scale(f);
    const Element<T, R> element(f);
    Counters<T> count;
    auto* const scales = static_cast<uint8_t*>(f.block.scales);
    const vec<T> nan = broadcast(f.codes ? T(0) : T(__builtin_nan(""))), stands_for_nan = broadcast(T(f.nan));
    alignas(64) T replaced[Full ? kLongestBlock : 1];
    for (; i < n; i += f.block.size) {
        const int64_t size = min_of(f.block.size, n - i);
        const T* from = x + i;
        if constexpr (Full) {
            for (int64_t j = 0; j < size; j += lanes<T>) {
                const vec<T> v = load_up_to(from + j, size - j);
                count.nan.add(v != v);
                store_up_to(replaced + j, select<T>(v != v, stands_for_nan, v), size - j);
            }
            from = replaced;
        }
        const mask<T> largest = largest_of<T>(largest_magnitudes(from, size));
        const bool is_nan = largest[0] > Scale::kLargest;
        scale.find(largest);
        if (scales) scales[i / f.block.size] = is_nan ? Scale::kNan : uint8_t(scale.code[0]);
        counts.nan += is_nan && !Full;
        for (int64_t j = 0; j < size; j += lanes<T>) {
            const vec<T> v = load_up_to(from + j, size - j), r = rounded<T>(scale, element, v, random + i + j);
            if constexpr (Full) {
                if (is_nan)
                    count.overflow.add((mask<T>)magnitude_of<T>(v) == kInfinity<T>);
                else {
                    count.overflow.add(magnitude_of<T>(r) > element.bound);
                    count.underflow.add((r == T(0)) & (v != T(0)));
                }
            }
            store_up_to(y + i + j, is_nan ? nan : in_range<T>(scale, element, r), size - j);
        }
    }
    if constexpr (Full) count.add_to(counts);
}

// Blocks of whole vectors, several at a time if none of them has a NaN, the others one by one. Size: the block size as
// a compile-time constant, or 0.
template <class T, class Scale, template <class, Rounding> class Element, Rounding R, int Size, size_t... Which>
void together(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
              bool stream, std::index_sequence<Which...>) {
    Scale scale(f);
    const Element<T, R> element(f);
    auto* const scales = static_cast<uint8_t*>(f.block.scales);
    const int64_t size = Size ? Size : f.block.size, whole = n - n % (kTogether * size);
    auto block = [&](const Scale& own, int64_t at) {
        for (int64_t j = 0; j < size; j += lanes<T>) {
            const vec<T> r = rounded<T>(own, element, load(x + at + j), random + at + j);
            if (stream)
                stream_up_to(y + at + j, in_range<T>(own, element, r), lanes<T>);
            else
                store(y + at + j, in_range<T>(own, element, r));
        }
    };
    // Computes the scales of many blocks first, then their elements, so that neither waits for the other in every
    // block.
    constexpr int64_t kMany = 16;
    alignas(64) T in[kMany * lanes<T>], out[kMany * lanes<T>];
    for (int64_t i = 0, end; i < whole; i = end) {
        end = min_of(whole, i + kMany * kTogether * size);
        mask<T> nan{};
        for (int64_t at = i, k = 0; at < end; at += kTogether * size, k += lanes<T>) {
            const mask<T> magnitudes[kTogether] = {largest_magnitudes(x + at + int64_t(Which) * size, size)...};
            const mask<T> largest = largest_of_each<T>(magnitudes);
            nan |= largest > Scale::kLargest;
            scale.find(largest);
            store(in + k, scale.in);
            store(out + k, scale.out);
            if (scales) ((scales[at / size + int64_t(Which)] = uint8_t(scale.code[Which * kPart<T>])), ...);
        }
        if (any<T>(nan)) {
            one_by_one<T, Scale, Element, R, false>(f, x, y, i, end, random, counts);
            continue;
        }
        for (int64_t at = i, k = 0; at < end; at += size, k += kPart<T>) {
            scale.in = broadcast(in[k]);
            scale.out = broadcast(out[k]);
            block(scale, at);
        }
    }
    one_by_one<T, Scale, Element, R, false>(f, x, y, whole, n, random, counts);
}

template <class T, class Scale, template <class, Rounding> class Element, Rounding R, bool Full>
void blocks(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
            bool stream) {
    constexpr auto each = std::make_index_sequence<size_t(kTogether)>();
    if constexpr (Full)
        one_by_one<T, Scale, Element, R, true>(f, x, y, 0, n, random, counts);
    else if (f.block.size % lanes<T> != 0)
        one_by_one<T, Scale, Element, R, false>(f, x, y, 0, n, random, counts);
    else if (f.block.size == 16)
        together<T, Scale, Element, R, 16>(f, x, y, n, random, counts, stream, each);
    else if (f.block.size == 32)
        together<T, Scale, Element, R, 32>(f, x, y, n, random, counts, stream, each);
    else
        together<T, Scale, Element, R, 0>(f, x, y, n, random, counts, stream, each);
}

template <class T, class Scale, template <class, Rounding> class Element, Rounding R>
QuantKernel<T> either(const QuantFormat& f) {
    return f.count ? blocks<T, Scale, Element, R, true> : blocks<T, Scale, Element, R, false>;
}

template <class T, class Scale> QuantKernel<T> of_floats(const QuantFormat& f) {
    return with_float_rounding(f.rounding, [&]<Rounding R>() { return either<T, Scale, FloatElement, R>(f); });
}

} // namespace

template <class T> QuantKernel<T> block_kernel(const QuantFormat& f) {
    if (f.kind == Kind::nvfp4) return of_floats<T, SmallFloatScale<T>>(f);
    if (f.kind == Kind::mx) return of_floats<T, PowerScale<T>>(f);
    return with_fixed_rounding(f.rounding,
                               [&]<Rounding R>() { return either<T, PowerScale<T>, IntegerElement, R>(f); });
}

} // namespace fastiter::quant::FASTITER_LEVEL
