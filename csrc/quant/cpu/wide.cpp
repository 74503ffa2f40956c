// Formats and inputs beyond floating point: rounded as integers, one at a time, exactly for every format and every
// input.
#include "quant/cpu/quantize.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

using Wide = __int128;

// x = +-significand 2^exponent
struct Parts {
    bool negative;
    uint64_t significand;
    int exponent;
};

FASTITER_INLINE Parts parts_of(double x) {
    const uint64_t bits = __builtin_bit_cast(uint64_t, x);
    const int field = int(bits >> 52) & 0x7ff;
    const uint64_t fraction = bits & ((uint64_t(1) << 52) - 1);
    return {bits >> 63 != 0, field ? fraction | uint64_t(1) << 52 : fraction, (field ? field : 1) - 1075};
}

// The magnitude without its last `places` bits (1 or more), rounded; `cut`: whether they were nonzero
struct Rounded {
    uint64_t magnitude;
    bool cut;
};

FASTITER_INLINE Rounded without(uint64_t m, int places, bool negative, bool odd, Rounding rounding, uint32_t random) {
    constexpr uint64_t one = 1;
    const bool far = places >= 64; // the dropped part is then below a quarter
    const uint64_t shifted = far ? 0 : m >> places, rest = far ? m : m & ((one << places) - 1);
    const uint64_t half = far ? UINT64_MAX : one << (places - 1);
    const int over = places - kRandomBits;
    bool up = false;
    switch (rounding) {
    case Rounding::down:
        up = negative && rest;
        break;
    case Rounding::up:
        up = !negative && rest;
        break;
    case Rounding::zero:
        break;
    case Rounding::away:
        up = rest;
        break;
    case Rounding::stochastic: {
        const uint64_t fraction = over <= 0 ? rest << -over : over < 64 ? rest >> over : 0;
        up = fraction + (random >> 1) >= one << kRandomBits;
        break;
    }
    default:
        const bool tie_up = rounding == Rounding::half_up     ? !negative
                            : rounding == Rounding::half_down ? negative
                            : rounding == Rounding::half_away ? true
                            : rounding == Rounding::half_zero ? false
                                                              : odd;
        up = rest > half || (rest == half && tie_up);
    }
    return {shifted + up, rest != 0};
}

// Wrapping with saturated bits or in sign and magnitude; floor: the number before rounding, rounded down
FASTITER_INLINE uint64_t wrapped(Wide code, Wide floor, Overflow overflow, const FixedPoint& p) {
    const uint64_t ones = p.width == 64 ? UINT64_MAX : (uint64_t(1) << p.width) - 1;
    const int n = p.saturated, shifted = p.width - n;
    const uint64_t low = shifted == 64 ? UINT64_MAX : (uint64_t(1) << shifted) - 1;
    uint64_t u = uint64_t(code) & ones;
    const bool negative = code < 0;
    const uint64_t saturated = n ? ((uint64_t(1) << (n - 1)) - !negative) << shifted : 0;
    if (overflow == Overflow::wrap || overflow == Overflow::wrap_some)
        return n == 0 ? u : p.is_signed ? (u & low) | saturated : u | (ones & ~low);
    const bool top = u >> (p.width - 1) & 1;
    const bool invert = n == 0   ? bool(floor >> p.width & 1) != top
                        : n == 1 ? negative != top
                                 : bool(u >> shifted & 1) == negative;
    if (invert) u = ~u & ones;
    return n > 1 ? (u & low) | saturated : u;
}

FASTITER_INLINE Wide overflowed(Wide code, Wide floor, Overflow overflow, const FixedPoint& p, int64_t& count) {
    const Wide high = (Wide(1) << (p.width - p.is_signed)) - 1, low = p.is_signed ? -high - !p.symmetric : 0;
    if (code >= low && code <= high) return code;
    ++count;
    if (overflow == Overflow::saturate) return code < low ? low : high;
    if (overflow == Overflow::zero) return 0;
    const uint64_t u = wrapped(code, floor, overflow, p);
    return p.is_signed && u >> (p.width - 1) & 1 ? Wide(u) - (Wide(1) << p.width) : Wide(u);
}

// 2^e for every exponent of a double, including subnormals
FASTITER_INLINE double power(int e) {
    return __builtin_bit_cast(double, e < -1022 ? uint64_t(1) << (e + 1074) : uint64_t(e + 1023) << 52);
}

// Rounds to the nearest double, or (to_odd) to odd.
FASTITER_INLINE double to_double(Wide code, double scale, bool to_odd) {
    const bool negative = code < 0;
    uint64_t m = uint64_t(negative ? -code : code);
    const int excess = m ? 11 - __builtin_clzll(m) : 0;
    if (to_odd && excess > 0) m = ((m >> excess) | ((m & ((uint64_t(1) << excess) - 1)) != 0)) << excess;
    return (negative ? -double(m) : double(m)) * scale;
}

} // namespace

void wide_fixed(const QuantFormat& f, const double* x, double* y, int64_t n, const uint32_t* random,
                QuantCounts& counts, bool) {
    const FixedPoint& p = f.fixed;
    for (int64_t i = 0; i < n; ++i) {
        counts.nan += x[i] != x[i];
        const double from = x[i] != x[i] ? f.nan : x[i];
        if (from != from) {
            y[i] = from;
            continue;
        }
        const Parts parts = parts_of(from);
        // Infinity has so large an exponent that its low bits are zero.
        const int up = parts.significand ? parts.exponent + p.fraction : 0;
        Wide magnitude, floor;
        if (up >= 0) {
            magnitude = up > 64 ? Wide(1) << 100 : Wide(parts.significand) << up;
            floor = parts.negative ? -magnitude : magnitude;
        } else {
            const bool odd = -up < 64 && (parts.significand >> -up & 1);
            const Rounded r = without(parts.significand, -up, parts.negative, odd, f.rounding,
                                      f.rounding == Rounding::stochastic ? random[i] : 0);
            magnitude = Wide(r.magnitude);
            const Wide shifted = -up >= 64 ? 0 : Wide(parts.significand >> -up);
            floor = parts.negative ? -shifted - r.cut : shifted;
        }
        const Wide code = parts.negative ? -magnitude : magnitude;
        const Wide fits = overflowed(code, floor, f.overflow, p, counts.overflow);
        counts.underflow += code == 0 && parts.significand != 0;
        y[i] = f.codes ? __builtin_bit_cast(double, uint64_t(fits)) : to_double(fits, p.from_code, f.to_odd);
    }
}

// Any small float, computed from doubles
void wide_float(const QuantFormat& f, const double* x, double* y, int64_t n, const uint32_t* random,
                QuantCounts& counts, bool) {
    const SmallFloat& s = f.small;
    for (int64_t i = 0; i < n; ++i) {
        counts.nan += x[i] != x[i];
        const double from = x[i] != x[i] ? f.nan : x[i], infinity = __builtin_inf();
        if (from != from) {
            y[i] = from;
            continue;
        }
        const Parts parts = parts_of(from);
        double r = from;
        if (parts.significand != 0 && from != infinity && from != -infinity) {
            const int leading = parts.exponent + 63 - __builtin_clzll(parts.significand);
            const int last = (leading > s.min_exponent ? leading : s.min_exponent) - s.mantissa;
            const int places = last - parts.exponent;
            if (places > 0) {
                // Without a mantissa, codes count powers of two: is the code of the lower neighbour odd?
                const bool bare = s.mantissa == 0 && leading >= s.min_exponent;
                const bool odd = bare ? ((leading - s.min_exponent + s.has_zero) & 1) != 0
                                      : places < 64 && (parts.significand >> places & 1);
                const uint64_t m =
                    without(parts.significand, places, parts.negative, odd, f.rounding, random ? random[i] : 0)
                        .magnitude;
                r = last > 1023 ? infinity : double(m) * power(last); // exact, or beyond double's range
                r = parts.negative ? -r : r;
            }
        }
        const bool out = r > s.largest || r < -s.largest || (!s.is_signed && from < 0);
        double fits = r;
        if (f.overflow == Overflow::saturate)
            fits = r > s.largest ? s.largest : r < -s.largest ? -s.largest : r;
        else if (from == infinity || from == -infinity)
            fits = from > 0 ? s.infinite : s.minus_infinite;
        else
            fits = r > s.largest ? s.over : r < -s.largest ? s.under : r;
        if (!s.is_signed) {
            fits = from < 0 ? s.negative : fits;
            fits = fits < s.smallest ? s.smallest : fits;
        }
        if (fits == 0 && !s.negative_zero) fits = 0;
        counts.overflow += out;
        counts.underflow += fits == 0 && from != 0 && !out;
        y[i] = fits;
    }
}

} // namespace fastiter::quant::FASTITER_LEVEL
