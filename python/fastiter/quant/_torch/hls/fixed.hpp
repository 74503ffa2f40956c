// Fixed-point numbers for the exported network: the part of HLS's ap_fixed that it needs, on 64-bit integers.
//
// A number is code 2^(I - W). Sums and products have as many bits as they need; only an assignment rounds and then
// handles overflow. More than 60 bits in a number are a compile-time error.
// With -DFASTITER_VENDOR_TYPES the vendor's own ap_fixed.h is used instead.
#pragma once

#ifdef FASTITER_VENDOR_TYPES
#include <ap_fixed.h>

template <class T> T from_code(long long code) {
    T x;
    x.range(T::width - 1, 0) = ap_int<T::width>(code).range();
    return x;
}

template <class T> long long code_of(const T& x) {
    ap_int<T::width + 1> code = 0;
    code.range(T::width - 1, 0) = x.range(T::width - 1, 0);
    if (x < 0) code[T::width] = 1;
    return code.to_int64();
}

#else
#include <cstdint>

enum ap_q_mode { AP_RND, AP_RND_ZERO, AP_RND_MIN_INF, AP_RND_INF, AP_RND_CONV, AP_TRN, AP_TRN_ZERO };
enum ap_o_mode { AP_SAT, AP_SAT_ZERO, AP_SAT_SYM, AP_WRAP, AP_WRAP_SM };

namespace fixed_point {

using Code = std::int64_t;
using Bits = std::uint64_t;

constexpr int kMaxBits = 60;

constexpr int larger(int a, int b) { return a > b ? a : b; }

// A number moved to another binary point: rounded, and rounded down.
struct Whole {
    Code rounded, floor;
};

constexpr bool rounds_up(ap_q_mode mode, bool negative, bool odd, bool half, bool rest) {
    switch (mode) {
    case AP_RND:
        return half;
    case AP_RND_ZERO:
        return half && (negative || rest);
    case AP_RND_MIN_INF:
        return half && rest;
    case AP_RND_INF:
        return half && (!negative || rest);
    case AP_RND_CONV:
        return half && (odd || rest);
    case AP_TRN:
        return false;
    case AP_TRN_ZERO:
        return negative && (half || rest);
    }
    return false;
}

// code 2^-dropped
constexpr Whole whole(Code code, int dropped, ap_q_mode mode) {
    if (dropped <= 0) {
        // The caller has checked that the bits suffice.
        const Code shifted = code * (Code(1) << -dropped);
        return {shifted, shifted};
    }
    // Shifts beyond all bits of the code give the same result.
    const int shift = dropped < 62 ? dropped : 62;
    const Code floor = code >> shift;
    const Bits below = Bits(code) & ((Bits(1) << shift) - 1), middle = Bits(1) << (shift - 1);
    const bool up = rounds_up(mode, code < 0, floor & 1, below & middle, below & (middle - 1));
    return {floor + up, floor};
}

// The codes of a format, and the overflow handling of rounded codes outside of them.
template <int W, bool S, ap_o_mode O, int N> struct Range {
    static constexpr Code high = (Code(1) << (S ? W - 1 : W)) - 1, low = S ? -high - 1 : 0;
    static constexpr Bits ones = (Bits(1) << W) - 1;

    static constexpr Code of(Whole number) {
        const Code code = number.rounded;
        if (O == AP_SAT_SYM && S && code < -high) return -high;
        if (low <= code && code <= high) return code;
        switch (O) {
        case AP_SAT_ZERO:
            return 0;
        case AP_WRAP:
            return with_sign(wrapped(code));
        case AP_WRAP_SM:
            return with_sign(sign_magnitude(code, number.floor));
        case AP_SAT:
        case AP_SAT_SYM:
            break;
        }
        return code < low ? low : high;
    }

private:
    // The N highest bits of the saturated value, in place.
    static constexpr Bits saturated(bool negative) {
        if (!S) return ones & ~(ones >> N);
        return negative ? Bits(1) << (W - 1) : (ones >> 1) & ~(ones >> N);
    }

    static constexpr Bits wrapped(Code code) {
        if (N == 0) return Bits(code) & ones;
        return (Bits(code) & (ones >> N)) | saturated(code < 0);
    }

    static constexpr Bits sign_magnitude(Code code, Code floor) {
        const Bits bits = Bits(code) & ones, sign = N == 0 ? Bits(floor) >> W & 1 : Bits(code < 0);
        if (N <= 1) return bits >> (W - 1) == sign ? bits : bits ^ ones;
        const bool inverted = (bits >> (W - N) & 1) == sign;
        return ((inverted ? ~bits : bits) & (ones >> N)) | saturated(code < 0);
    }

    static constexpr Code with_sign(Bits bits) {
        return S && bits >> (W - 1) & 1 ? Code(bits) - Code(ones) - 1 : Code(bits);
    }
};

template <int W, int I, bool S, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0> class Fixed {
    static_assert(1 <= W && W <= kMaxBits && 0 <= N && N <= W, "a number needs too many bits");

public:
    static constexpr int width = W, fraction = W - I;

    constexpr Fixed() = default;

    template <int W2, int I2, bool S2, ap_q_mode Q2, ap_o_mode O2, int N2>
    constexpr Fixed(const Fixed<W2, I2, S2, Q2, O2, N2>& x)
        : code_(Range<W, S, O, N>::of(whole(x.code(), W2 - I2 - fraction, Q))) {
        static_assert(W2 + larger(0, fraction - (W2 - I2)) <= kMaxBits, "a number needs too many bits");
    }

    static constexpr Fixed of(Code code) {
        Fixed x;
        x.code_ = code;
        return x;
    }

    constexpr Code code() const { return code_; }

    template <class Other> Fixed& operator+=(const Other& x) { return *this = Fixed(*this + x); }

private:
    Code code_ = 0;
};

// The formats of exact sums and products of two formats.
template <int W1, int I1, bool S1, int W2, int I2, bool S2> struct Both {
    static constexpr bool has_sign = S1 || S2;
    static constexpr int integer = larger(I1 + (S2 && !S1), I2 + (S1 && !S2)), fraction = larger(W1 - I1, W2 - I2);
    using Sum = Fixed<integer + 1 + fraction, integer + 1, has_sign>;
    using Product = Fixed<W1 + W2, I1 + I2, has_sign>;
};

template <int W1, int I1, bool S1, ap_q_mode Q1, ap_o_mode O1, int N1, int W2, int I2, bool S2, ap_q_mode Q2,
          ap_o_mode O2, int N2>
constexpr auto operator+(const Fixed<W1, I1, S1, Q1, O1, N1>& a, const Fixed<W2, I2, S2, Q2, O2, N2>& b) {
    using Sum = typename Both<W1, I1, S1, W2, I2, S2>::Sum;
    return Sum::of(Sum(a).code() + Sum(b).code());
}

template <int W1, int I1, bool S1, ap_q_mode Q1, ap_o_mode O1, int N1, int W2, int I2, bool S2, ap_q_mode Q2,
          ap_o_mode O2, int N2>
constexpr auto operator*(const Fixed<W1, I1, S1, Q1, O1, N1>& a, const Fixed<W2, I2, S2, Q2, O2, N2>& b) {
    return Both<W1, I1, S1, W2, I2, S2>::Product::of(a.code() * b.code());
}

// Compares two numbers of the same format.
template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O, int N>
constexpr bool operator<(const Fixed<W, I, S, Q, O, N>& a, const Fixed<W, I, S, Q, O, N>& b) {
    return a.code() < b.code();
}

} // namespace fixed_point

template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0>
using ap_fixed = fixed_point::Fixed<W, I, true, Q, O, N>;
template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0>
using ap_ufixed = fixed_point::Fixed<W, I, false, Q, O, N>;

template <class T> constexpr T from_code(long long code) { return T::of(code); }

template <class T> constexpr long long code_of(const T& x) { return x.code(); }

#endif
