// Decays exp(d A) of the selective scan, for real and for complex rates A, and the arithmetic of the corresponding
// states: real numbers, or complex ones as two vectors.
#pragma once
#include "core/cpu/vmath.hpp"
#include "ssm/cpu/kernels.hpp"

namespace fastiter::ssm::FASTITER_LEVEL {

constexpr double kLog2e = 1.4426950408889634074, kLn2 = 0.6931471805599453094;

// Exponents of 2 up to this magnitude need no clamping: 2^n and the result are normal numbers.
template <class T> constexpr T kSmallExponent = sizeof(T) == 4 ? T(125) : T(1000);

// Angles up to this magnitude, in right angles, are reduced exactly. Above it, consecutive floating-point numbers are
// about a right angle apart.
template <class T> constexpr T kSmallAngle = sizeof(T) == 4 ? T(1 << 21) : T(int64_t(1) << 50);

// 2^r for |r| <= 1/2; exactly 1 at 0, so that a decay of 1 is exact; in float within 1.1 units in the last place.
template <class T, int Count> FASTITER_INLINE void exp2_reduced(const vec<T>* r, vec<T>* y) {
    if constexpr (sizeof(T) == 8) {
        for (int i = 0; i < Count; ++i) y[i] = exp_reduced<T>(r[i] * T(kLn2));
    } else {
        constexpr float c[] = {0.693146978f, 0.240222421f, 0.0555073374f, 0.00967151266f, 0.00132647269f};
#pragma GCC unroll 16
        for (int i = 0; i < Count; ++i) y[i] = fma(broadcast(c[4]), r[i], broadcast(c[3]));
#pragma GCC unroll 3
        for (int k = 2; k >= 0; --k)
#pragma GCC unroll 16
            for (int i = 0; i < Count; ++i) y[i] = fma(y[i], r[i], broadcast(c[k]));
#pragma GCC unroll 16
        for (int i = 0; i < Count; ++i) y[i] = fma(y[i], r[i], broadcast(T(1)));
    }
}

// y[i] = 2^(d a[i]) for `Count` vectors a, `Step` numbers apart, operation by operation, as the latency of an operation
// is several times its share of the throughput. |d a| is at most kSmallExponent.
template <class T, int Count, int Step> FASTITER_INLINE void small_power(vec<T> d, const T* a, vec<T>* y) {
    using C = ExpConstants<T>;
    // Where `scale` is one instruction, it replaces a shift and an addition, with the same bits.
    constexpr bool scales = kVectorBytes == 64;
    vec<T> rounded[Count], r[Count];
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
        rounded[i] = fma(d, load(a + i * Step), broadcast(C::round));
        if constexpr (scales) rounded[i] -= C::round;
    }
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) // rounded once, from the exact product
        r[i] = fma(d, load(a + i * Step), scales ? -rounded[i] : C::round - rounded[i]);
    exp2_reduced<T, Count>(r, y);
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i)
        if constexpr (scales)
            y[i] = scale<T>(y[i], rounded[i]);
        else // adds the integer to the exponent
            y[i] = (vec<T>)((raw_bits<T>)y[i] + ((raw_bits<T>)rounded[i] << C::mantissa));
}

// The same; without Small, d a may be any number, and small magnitudes give the same result as with it.
template <class T, bool Small, int Count, int Step> FASTITER_INLINE void power(vec<T> d, const T* a, vec<T>* y) {
    small_power<T, Count, Step>(d, a, y);
    if constexpr (!Small) {
        constexpr T limit = sizeof(T) == 4 ? T(128) : T(1100);
        for (int i = 0; i < Count; ++i) {
            const vec<T> x = d * load(a + i * Step), inside = at_most<T>(at_least<T>(x, -limit - 25), limit);
            const vec<T> n = (inside + ExpConstants<T>::round) - ExpConstants<T>::round, r = inside - n;
            vec<T> p;
            exp2_reduced<T, 1>(&r, &p);
            y[i] = select<T>(magnitude<T>(x) <= kSmallExponent<T>, y[i], scale<T>(p, n));
        }
    }
}

// A real number in each lane, or a complex one
template <class T, bool Complex> struct Number {
    vec<T> part[Complex ? 2 : 1];
};

// Vectors per number, and per rate. A real rate is A log2 e; a complex rate is the real part times log2 e, the
// imaginary part in right angles as a sum of two numbers, and the imaginary part times log2 e.
template <bool Complex> constexpr int kParts = Complex ? 2 : 1;
template <bool Complex> constexpr int kRates = Complex ? 4 : 1;

template <class T, bool Complex> FASTITER_INLINE Number<T, Complex> load_number(const T* p) {
    Number<T, Complex> x;
    for (int i = 0; i < kParts<Complex>; ++i) x.part[i] = load(p + i * lanes<T>);
    return x;
}
template <class T, bool Complex> FASTITER_INLINE void store_number(T* p, const Number<T, Complex>& x) {
    for (int i = 0; i < kParts<Complex>; ++i) store(p + i * lanes<T>, x.part[i]);
}

// s x for a real s
template <class T, bool Complex> FASTITER_INLINE Number<T, Complex> scaled(vec<T> s, const Number<T, Complex>& x) {
    Number<T, Complex> y;
    for (int i = 0; i < kParts<Complex>; ++i) y.part[i] = s * x.part[i];
    return y;
}
// s x + y for a real s, or s conj(x) + y
template <class T, bool Complex, bool Conjugate = false>
FASTITER_INLINE Number<T, Complex> add_scaled(vec<T> s, const Number<T, Complex>& x, const Number<T, Complex>& y) {
    Number<T, Complex> z;
    z.part[0] = fma(s, x.part[0], y.part[0]);
    if constexpr (Complex) z.part[1] = fma(Conjugate ? -s : s, x.part[1], y.part[1]);
    return z;
}
// a x + y
template <class T, bool Complex>
FASTITER_INLINE Number<T, Complex> multiply_add(const Number<T, Complex>& a, const Number<T, Complex>& x,
                                                const Number<T, Complex>& y) {
    Number<T, Complex> z;
    z.part[0] = fma(a.part[0], x.part[0], y.part[0]);
    if constexpr (Complex) {
        z.part[0] = fma(-a.part[1], x.part[1], z.part[0]);
        z.part[1] = fma(a.part[1], x.part[0], fma(a.part[0], x.part[1], y.part[1]));
    }
    return z;
}
// conj(a) x
template <class T, bool Complex>
FASTITER_INLINE Number<T, Complex> conjugate_product(const Number<T, Complex>& a, const Number<T, Complex>& x) {
    Number<T, Complex> z;
    z.part[0] = a.part[0] * x.part[0];
    if constexpr (Complex) {
        z.part[0] = fma(a.part[1], x.part[1], z.part[0]);
        z.part[1] = fma(-a.part[1], x.part[0], a.part[0] * x.part[1]);
    }
    return z;
}
// y + Re(a x), or y + Re(conj(a) x)
template <class T, bool Complex, bool Conjugate>
FASTITER_INLINE vec<T> add_real_part(const Number<T, Complex>& a, const Number<T, Complex>& x, vec<T> y) {
    y = fma(a.part[0], x.part[0], y);
    if constexpr (Complex) y = fma(Conjugate ? a.part[1] : -a.part[1], x.part[1], y);
    return y;
}

// A product and its rounding error
template <class T> struct Product {
    vec<T> rounded, rest;
};
template <class T> FASTITER_INLINE Product<T> exact_product(vec<T> a, vec<T> b) {
    const vec<T> p = a * b;
#if defined(FASTITER_FUSES)
    return {p, fma(a, b, -p)};
#else
    constexpr T split = sizeof(T) == 4 ? T(4097) : T(134217729); // halves with few enough bits for exact products
    const vec<T> high_a = a * split - (a * split - a), high_b = b * split - (b * split - b);
    const vec<T> low_a = a - high_a, low_b = b - high_b;
    return {p, low_a * low_b - (((p - high_a * high_b) - low_a * high_b) - high_a * low_b)};
#endif
}

// The rate of a complex A
template <class T> FASTITER_INLINE void store_rate(T* rate, vec<T> real, vec<T> imaginary) {
    // 2 / pi as a sum
    constexpr T high = sizeof(T) == 4 ? T(0.63661975f) : T(0.63661977236758134308);
    constexpr T low = sizeof(T) == 4 ? T(2.5682553e-8f) : T(-3.9357353350364972e-17);
    const Product<T> angle = exact_product<T>(imaginary, broadcast(high));
    store(rate, real * T(kLog2e));
    store(rate + lanes<T>, angle.rounded);
    store(rate + 2 * lanes<T>, fma(imaginary, low, angle.rest));
    store(rate + 3 * lanes<T>, imaginary * T(kLog2e));
}

// An angle in right angles: the nearest integer plus ExpConstants::round, whose lowest bits are the quadrant; the rest
template <class T> struct Angle {
    vec<T> rounded, rest;
};

// The angle d (a[0] + a[1]) for vectors a; up to kSmallAngle the rest is that of the exact product.
template <class T, bool Small> FASTITER_INLINE Angle<T> angle_of(vec<T> d, const T* a) {
    constexpr T round = ExpConstants<T>::round;
    const vec<T> high = load(a), low = load(a + lanes<T>);
    Angle<T> y;
#if defined(FASTITER_FUSES)
    y.rounded = fma(d, high, broadcast(round));
    y.rest = fma(d, low, fma(d, high, round - y.rounded));
#else
    const Product<T> product = exact_product<T>(d, high);
    y.rounded = product.rounded + round;
    y.rest = (product.rounded + (round - y.rounded)) + (d * low + product.rest);
#endif
    if constexpr (!Small) { // subtracts whole turns from the rounded product
        constexpr T exact = kSmallAngle<T> * 8;
        const vec<T> x = d * high, turns = (x * T(0.25) + round) - round;
        const vec<T> inside = select<T>(magnitude<T>(x) < exact, x - turns * T(4), x - x); // inf - inf is NaN
        const vec<T> rounded = inside + round;
        const mask<T> finite = y.rest == y.rest; // false if a half of a factor of the exact product overflowed
        const mask<T> is_small = finite & (magnitude<T>(x) <= kSmallAngle<T>);
        y.rounded = select<T>(is_small, y.rounded, rounded);
        y.rest = select<T>(is_small, y.rest, inside - (rounded - round));
    }
    return y;
}

// sin and cos of r right angles for |r| <= 1/2, within a unit in the last place
template <class T> FASTITER_INLINE vec<T> sine_reduced(vec<T> r, vec<T> r2) {
    if constexpr (sizeof(T) == 4) {
        constexpr float c[] = {1.57079632f, -0.64596346f, 0.0796800328f, -0.00460165789f};
        return r * fma(fma(fma(r2, c[3], c[2]), r2, broadcast(c[1])), r2, broadcast(c[0]));
    } else { // Taylor
        constexpr double c[] = {1.5707963267948966,    -0.6459640975062463,    0.07969262624616705,
                                -0.004681754135318688, 0.00016044118478735983, -3.598843235212085e-06,
                                5.692172921967927e-08, -6.688035109811468e-10, 6.0669357311061955e-12};
        vec<T> p = broadcast(c[8]);
#pragma GCC unroll 8
        for (int i = 7; i >= 0; --i) p = fma(p, r2, broadcast(c[i]));
        return r * p;
    }
}
template <class T> FASTITER_INLINE vec<T> cosine_reduced(vec<T> r2) {
    if constexpr (sizeof(T) == 4) {
        constexpr float c[] = {-1.2337005f, 0.253669247f, -0.0208603085f, 0.000904060512f};
        const vec<T> p = fma(fma(fma(r2, c[3], c[2]), r2, broadcast(c[1])), r2, broadcast(c[0]));
        return fma(p, r2, broadcast(1.0f));
    } else { // Taylor
        constexpr double c[] = {1.0,
                                -1.2337005501361697,
                                0.25366950790104803,
                                -0.02086348076335296,
                                0.0009192602748394266,
                                -2.5202042373060607e-05,
                                4.710874778818172e-07,
                                -6.386603083791852e-09,
                                6.565963114979473e-11};
        vec<T> p = broadcast(c[8]);
#pragma GCC unroll 8
        for (int i = 7; i >= 0; --i) p = fma(p, r2, broadcast(c[i]));
        return p;
    }
}

// y[i] = exp(d A[i]) for the rates of `Count` states
template <class T, bool Complex, bool Small, int Count>
FASTITER_INLINE void decay(vec<T> d, const T* rates, Number<T, Complex>* y) {
    constexpr int W = lanes<T>, step = kRates<Complex> * W;
    vec<T> size[Count];
    power<T, Small, Count, step>(d, rates, size);
    if constexpr (!Complex) {
#pragma GCC unroll 16
        for (int i = 0; i < Count; ++i) y[i].part[0] = size[i];
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < Count; ++i) {
            const Angle<T> angle = angle_of<T, Small>(d, rates + i * step + W);
            const vec<T> r2 = angle.rest * angle.rest;
            const vec<T> sine = sine_reduced<T>(angle.rest, r2), cosine = cosine_reduced<T>(r2);
            constexpr int sign = 8 * int(sizeof(T)) - 2;
            const mask<T> quadrant = (mask<T>)angle.rounded, is_odd = (quadrant & 1) != 0;
            const mask<T> minus_cosine = ((quadrant + 1) & 2) << sign, minus_sine = (quadrant & 2) << sign;
            y[i].part[0] = size[i] * (vec<T>)((mask<T>)select<T>(is_odd, sine, cosine) ^ minus_cosine);
            y[i].part[1] = size[i] * (vec<T>)((mask<T>)select<T>(is_odd, cosine, sine) ^ minus_sine);
        }
    }
}

} // namespace fastiter::ssm::FASTITER_LEVEL
