// Element by element and step by step, in 128 bits: exact for every format of up to 64 bits and every position of its
// point. Used where no vectorised path is exact, and as the tests' reference for those.
#include "quant/cpu/matmul/fixed_lanes.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

__extension__ using Int = __int128;
__extension__ using Bits = unsigned __int128;

// An integer of up to 129 bits: the product of two unsigned codes uses all 128 bits and has no sign bit.
struct Number {
    Bits bits = 0;
    bool negative = false; // the sign: value of all bits above

    // floor(this / 2^n) and bit n, for any n >= 0
    Int shifted_right(int64_t n) const {
        if (n > 127) return negative ? -1 : 0;
        return negative ? Int(bits) >> n : Int(bits >> n);
    }
    bool bit(int64_t n) const { return n > 127 ? negative : bits >> n & 1; }
    bool has_bits_below(int64_t n) const { return n > 127 ? bits != 0 : (bits & ((Bits(1) << n) - 1)) != 0; }
};

Number number(Int x) { return {Bits(x), x < 0}; }

// A sum before overflow handling: its floor and its rounded value. If it is far outside of every format, only the low
// bits.
struct Sum {
    Int floor = 0, rounded = 0;
    bool is_far = false, negative = false;
};

Int add(Int a, Int b) { return Int(Bits(a) + Bits(b)); } // modulo 2^128

bool rounds_up(Rounding mode, bool negative, bool half, bool rest, bool odd) {
    switch (mode) {
    case Rounding::down:
        return false;
    case Rounding::zero:
        return negative && (half || rest);
    case Rounding::half_up:
        return half;
    case Rounding::half_zero:
        return half && (negative || rest);
    case Rounding::half_down:
        return half && rest;
    case Rounding::half_away:
        return half && (!negative || rest);
    default:
        return half && (odd || rest);
    }
}

// acc + p 2^-shift
Sum sum_of(Int acc, Number p, const FixedTarget& t) {
    Sum s;
    if (t.shift > 0) {
        s.floor = add(acc, p.shifted_right(t.shift));
        const bool up =
            rounds_up(t.rounding, s.floor < 0, p.bit(t.shift - 1), p.has_bits_below(t.shift - 1), s.floor & 1);
        s.rounded = add(s.floor, up);
        s.is_far = !p.negative && p.bits >> 127;
        s.negative = !s.is_far && s.rounded < 0;
        return s;
    }
    const int64_t left = -t.shift;
    const Bits magnitude = p.negative ? -p.bits : p.bits;
    s.is_far = magnitude != 0 && (left > 125 || magnitude >> (126 - left) != 0);
    s.floor = s.rounded = add(acc, left > 127 ? 0 : Int(p.bits << left));
    s.negative = s.is_far ? p.negative : s.floor < 0;
    return s;
}

Int ones(int n) { return (Int(1) << n) - 1; }

Int overflowed(const Sum& s, const FixedTarget& t) {
    const Int hi = ones(t.width - t.is_signed), lowest = t.is_signed ? -hi - 1 : 0;
    const Int lo = t.symmetric ? -hi : lowest;
    if (!s.is_far && s.rounded >= lo && s.rounded <= hi) return s.rounded;
    auto code = [&](Int u) { return (add(u, -lowest) & ones(t.width)) + lowest; };
    auto bit = [](Int u, int n) { return bool(u >> n & 1); };
    const Int low = ones(t.width - t.saturated_bits);
    Int u = s.rounded;
    switch (t.overflow) {
    case Overflow::saturate:
        return s.negative ? lo : hi;
    case Overflow::zero:
        return 0;
    case Overflow::wrap:
        return code(u);
    case Overflow::sign_magnitude:
        return code(bit(s.floor, t.width) == bit(u, t.width - 1) ? u : ~u);
    case Overflow::sign_magnitude_one:
        return code(s.negative == bit(u, t.width - 1) ? u : ~u);
    case Overflow::sign_magnitude_some:
        if (bit(u, t.width - t.saturated_bits) == s.negative) u = ~u;
        break;
    case Overflow::wrap_some:
        break;
    }
    const Int high = s.negative && t.is_signed ? lowest : hi & ~low;
    return (u & low) + high;
}

Int assigned(Int acc, Number p, const FixedTarget& t) { return overflowed(sum_of(acc, p, t), t); }

Int code_at(const void* data, int bytes, bool is_signed, int64_t i) {
    return with_size<int8_t, int16_t, int32_t, int64_t>(bytes, [&]<class S>() {
        using U = std::make_unsigned_t<S>;
        return is_signed ? Int(static_cast<const S*>(data)[i]) : Int(static_cast<const U*>(data)[i]);
    });
}

void put(void* data, int bytes, int64_t i, Int code) {
    with_size<int8_t, int16_t, int32_t, int64_t>(bytes, [&]<class S>() { static_cast<S*>(data)[i] = S(code); });
}

Number times(Int a, Int b) {
    const Number p = number(Int(Bits(a) * Bits(b)));
    return {p.bits, a != 0 && b != 0 && (a < 0) != (b < 0)};
}

Int dot(const FixedMatmul& g, int64_t m, int64_t n) {
    const int64_t row = g.a.item.at(m), column = g.b.item.at(n);
    Int acc = g.start ? code_at(g.start, 8, g.acc.is_signed, m * g.start_m + n * g.start_n) : 0;
    Number group;
    for (int64_t k = 0; k < g.K; ++k) {
        Number p = times(code_at(g.a.data, g.a.bytes, g.a.is_signed, row + g.a.k.at(k)),
                         code_at(g.b.data, g.b.bytes, g.b.is_signed, column + g.b.k.at(k)));
        if (g.has_product) p = number(assigned(0, p, g.product));
        if (g.every == 1) {
            acc = assigned(acc, p, g.acc);
            continue;
        }
        group = number(add(Int(group.bits), Int(p.bits))); // Python has checked that it fits
        if ((k + 1) % g.every != 0 && k + 1 != g.K) continue;
        acc = assigned(acc, group, g.acc);
        group = {};
    }
    return acc;
}

} // namespace

void wide_matmul(const FixedMatmul& g, Team team) {
    const Range mine = share(g.M * g.N, team.id, team.size);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        const int64_t m = g.rows ? g.rows[i / g.N] : i / g.N, n = i % g.N;
        put(g.out, g.out_bytes, g.out_m.at(m) + g.out_n.at(n), dot(g, m, n));
    }
}

void wide_convert(const FixedConvert& c, Range range) {
    for (int64_t i = range.begin; i < range.end; ++i)
        put(c.out, c.out_bytes, i, assigned(0, number(code_at(c.in, c.in_bytes, c.in_signed, i)), c.target));
}

} // namespace fastiter::quant::FASTITER_LEVEL
