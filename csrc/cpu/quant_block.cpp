// Formats whose numbers share a scale: the largest magnitude of a block gives it, then the elements are rounded.
#include "quant.hpp"
#include "small_float.hpp"

namespace fastiter::FASTITER_LEVEL {
namespace {

// ---- scales: from the bits of the largest magnitude, in all lanes, to what elements are multiplied with ----------------

// 2^k with k = (exponent of the largest, one more from a significand on) - (exponent of the largest element)
template <class T> struct PowerScale {
    static constexpr bool kExact = true; // but for numbers that are nothing beside the largest
    Bits<T> carry, offset;
    bool codes;
    vec<T> to_element, from_element;
    uint8_t code = 0;

    explicit PowerScale(const QuantFormat& f) : codes(f.codes) {
        const Bits<T> one = Bits<T>(1) << kMantissa<T>;
        const Bits<T> from =
            f.block.carry_from >= 2 ? one : __builtin_bit_cast(Bits<T>, T(f.block.carry_from)) & (one - 1);
        carry = one - 1 - (from - !f.block.beyond);
        offset = kBias<T> + f.block.max_exponent;
    }

    FASTITER_INLINE void find(mask<T> largest) {
        constexpr int most = 127;
        const mask<T> exponent = ((largest + carry) >> kMantissa<T>)-offset;
        mask<T> k = exponent < -most ? all_bits<T>(-most) : exponent > most ? all_bits<T>(most) : exponent;
        k = largest == bits_of_power<T>(kBias<T> + 1) ? all_bits<T>(most) : k; // infinity
        to_element = power(-k), from_element = power(k);
        code = uint8_t(k[0] + most);
    }
    // Of floats, 2^-127 is the only one of these that is subnormal.
    static FASTITER_INLINE vec<T> power(mask<T> e) {
        const mask<T> field = e + kBias<T>;
        const mask<T> bits = field << kMantissa<T>;
        return (vec<T>)(field == 0 ? all_bits<T>(Bits<T>(1) << (kMantissa<T> - 1)) : bits);
    }
    FASTITER_INLINE vec<T> before(vec<T> x) const { return x * to_element; }
    FASTITER_INLINE vec<T> after(vec<T> q) const { return codes ? q : q * from_element; }
};

// s in e4m3fn, from (largest / 6) / g; x / (s g), then (q s) g. Every operation rounds once.
template <class T> struct SmallFloatScale {
    static constexpr bool kExact = false;
    Significand<T> e4m3{3, -6, true};
    vec<T> g, s, divisor;
    bool codes;
    uint8_t code = 0;

    explicit SmallFloatScale(const QuantFormat& f) : g(broadcast(T(f.block.scale))), codes(f.codes) {}

    FASTITER_INLINE void find(mask<T> largest) {
        const vec<T> wanted = at_most<T>(at_least<T>((vec<T>)largest / T(6) / g, T(0x1p-9)), T(448));
        s = to_significand<T, Rounding::even>(wanted, random_words<T>{}, e4m3, vec<T>{});
        divisor = s * g;
        const Bits<T> bits = ((mask<T>)s)[0];
        const int exponent = int(bits >> kMantissa<T>) - kBias<T>;
        code = exponent >= -6 ? uint8_t((exponent + 7) << 3 | int(bits >> (kMantissa<T> - 3) & 7))
                              : uint8_t(s[0] * T(0x1p9));
    }
    FASTITER_INLINE vec<T> before(vec<T> x) const { return x / divisor; }
    FASTITER_INLINE vec<T> after(vec<T> q) const { return codes ? q : q * s * g; }
};

// ---- elements ----------------------------------------------------------------------------------------------------------

template <class T, Rounding R> struct FloatElement {
    Significand<T> significand;
    vec<T> most, zero;
    explicit FloatElement(const QuantFormat& f)
        : significand(f.small.mantissa, f.small.min_exponent, true), most(broadcast(T(f.small.most))),
          zero(broadcast(T(f.small.negative_zero ? -0.0 : 0.0))) {}
    FASTITER_INLINE vec<T> round(vec<T> v, random_words<T> random) const {
        return to_significand<T, R>(v, random, significand, zero);
    }
    FASTITER_INLINE vec<T> value(vec<T> r) const { return r; }
};

template <class T, Rounding R> struct IntegerElement {
    vec<T> to_code, most;
    explicit IntegerElement(const QuantFormat& f)
        : to_code(broadcast(T(f.fixed.to_code))), most(broadcast(T(f.fixed.most))),
          from_code(broadcast(T(f.fixed.from_code))) {}
    FASTITER_INLINE vec<T> round(vec<T> v, random_words<T> random) const { return whole<T, R>(v * to_code, random); }
    FASTITER_INLINE vec<T> value(vec<T> r) const { return fma(r, from_code, vec<T>{}); }

private:
    vec<T> from_code;
};

// ---- blocks ------------------------------------------------------------------------------------------------------------

// The bits of the largest magnitude: of NaN they are above those of infinity.
template <class T> FASTITER_INLINE mask<T> largest_magnitude(const T* x, int64_t n) {
    mask<T> m{};
    int64_t i = 0;
    for (; i + lanes<T> <= n; i += lanes<T>) m = larger(m, (mask<T>)magnitude_of<T>(load(x + i)));
    if (i < n) m = larger(m, (mask<T>)magnitude_of<T>(load_first(x + i, int(n - i))));
    return largest_of<T>(m);
}

// Directed rounding must still see a number whose quotient is too small for T.
template <class T, class Scale, Rounding R> FASTITER_INLINE vec<T> not_lost(vec<T> v, vec<T> x) {
    if constexpr (Scale::kExact && (R == Rounding::up || R == Rounding::down || R == Rounding::away))
        return select<T>((v == T(0)) & (x != T(0)),
                         copy_sign<T>((vec<T>)all_bits<T>(bits_of_power<T>(1 - kBias<T>)), x), v);
    return v;
}

template <class T, class Scale, template <class, Rounding> class Element, Rounding R, bool Full>
void blocks(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
            bool stream) {
    Scale scale(f);
    const Element<T, R> element(f);
    Counters<T> count;
    const vec<T> nan = broadcast(f.codes ? T(0) : T(__builtin_nan(""))), stands_for_nan = broadcast(T(f.nan));
    constexpr Bits<T> infinity = bits_of_power<T>(kBias<T> + 1);
    alignas(64) T replaced[kLongestBlock];
    for (int64_t i = 0; i < n; i += f.block.size) {
        const int64_t size = min_of(f.block.size, n - i);
        const T* from = x + i;
        if constexpr (Full) { // counts NaN, puts a number in its place
            for (int64_t j = 0; j < size; j += lanes<T>) {
                const vec<T> v = load_up_to(from + j, size - j);
                count.nan.add(v != v);
                store_up_to(replaced + j, select<T>(v != v, stands_for_nan, v), size - j);
            }
            from = replaced;
        }
        const mask<T> largest = largest_magnitude(from, size);
        const bool is_nan = largest[0] > infinity;
        scale.find(largest);
        if (f.block.scales) static_cast<uint8_t*>(f.block.scales)[i / f.block.size] = is_nan ? 255 : scale.code;
        if (is_nan) {
            if constexpr (!Full) counts.nan += 1;
            for (int64_t j = 0; j < size; j += lanes<T>) store_up_to(y + i + j, nan, size - j);
            continue;
        }
        auto one = [&](int64_t j, vec<T> v) {
            random_words<T> words{};
            if constexpr (R == Rounding::stochastic) words = load_random<T>(random + i + j);
            const vec<T> r = element.round(not_lost<T, Scale, R>(scale.before(v), v), words);
            const vec<T> fits = min_keeping_nan(element.most, max_keeping_nan(-element.most, r));
            if constexpr (Full) {
                count.overflow.add(magnitude_of<T>(r) > element.most);
                count.underflow.add((r == T(0)) & (v != T(0)));
            }
            return scale.after(element.value(fits));
        };
        int64_t j = 0;
        if (stream)
            for (; j + lanes<T> <= size; j += lanes<T>) stream_up_to(y + i + j, one(j, load(from + j)), lanes<T>);
        else
            for (; j + lanes<T> <= size; j += lanes<T>) store(y + i + j, one(j, load(from + j)));
        if (j < size) store_first(y + i + j, one(j, load_first(from + j, int(size - j))), int(size - j));
    }
    if constexpr (Full) count.add_to(counts);
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
template QuantKernel<float> block_kernel<float>(const QuantFormat&);
template QuantKernel<double> block_kernel<double>(const QuantFormat&);

} // namespace fastiter::FASTITER_LEVEL
