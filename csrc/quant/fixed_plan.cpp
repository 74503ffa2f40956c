#include "quant/fixed_plan.hpp"
#include <algorithm>

namespace fastiter::quant {
namespace {

__extension__ using Bound = unsigned __int128;
constexpr Bound kEndless = Bound(1) << 126; // larger than everything compared with it

Bound power(int64_t n) { return n > 126 ? kEndless : Bound(1) << n; }
Bound times(Bound a, Bound b) { return b != 0 && a > kEndless / b ? kEndless : std::min(a * b, kEndless); }

// The largest magnitude of a product of two codes
Bound largest_product(const FixedMatmul& g) {
    auto largest = [](const FixedCodes& x) { return power(x.magnitude()) - !x.is_signed; };
    return times(largest(g.a), largest(g.b));
}

Bound largest_code(const FixedTarget& t) { return power(t.width - t.is_signed); }

// The largest magnitude of a rounded p / 2^shift
Bound largest_step(Bound p, int64_t shift) {
    if (shift <= 0) return times(p, power(-shift));
    return (shift > 127 ? 0 : p >> shift) + 1;
}

// Whether p plus its rounding offset, before its last `shift` bits are dropped, fits lanes of `bits` bits. Lanes can
// shift by at most bits - 1: for a larger shift, p must be less than half a unit, and remains so.
bool rounds_in(int bits, Bound p, int64_t shift) {
    if (shift <= 0) return times(p, power(-shift)) < power(bits - 1);
    if (shift > bits - 1) return p < power(bits - 2);
    return p + power(shift - 1) < power(bits - 1);
}

bool is_modular(const FixedTarget& t) { return t.overflow == Overflow::wrap; }
bool clamps(const FixedTarget& t) { return t.overflow == Overflow::saturate; }
bool has_short_loop(const FixedTarget& t) { return is_modular(t) || clamps(t) || t.overflow == Overflow::zero; }

// Whether consecutive assignments are exact in lanes of `bits` bits
bool steps_in(int bits, Bound p, const FixedTarget& t, bool wraps_once) {
    if (wraps_once && t.shift <= 0) return t.width <= bits; // everything is modulo 2^width
    if (!rounds_in(bits, p, t.shift)) return false;
    if (wraps_once) return t.width <= bits;
    // The 16-bit addition saturates, and the sum is clamped afterwards.
    if (bits == 16 && clamps(t) && rounds_products(t)) return t.width - t.is_signed <= 15;
    return t.width < bits && largest_code(t) + largest_step(p, t.shift) + 1 < power(bits - 1);
}

bool lines_in(int bits, const FixedMatmul& g, bool wraps_once) {
    Bound p = largest_product(g);
    if (g.has_product) {
        if (!steps_in(bits, p, g.product, false)) return false;
        p = largest_code(g.product);
    }
    p = times(p, Bound(g.every));
    return steps_in(bits, p, g.acc, wraps_once);
}

// Distributes `left` bits of left shift over two codes in 16-bit lanes; returns false if they do not fit.
bool share_places(const FixedMatmul& g, int64_t left, FixedPlan& plan) {
    auto free = [](const FixedCodes& x) { return 15 - x.magnitude(); };
    if (left < 0 || free(g.a) < 0 || free(g.b) < 0 || left > free(g.a) + free(g.b)) return false;
    plan.a_left = int(std::min<int64_t>(left, free(g.a)));
    plan.b_left = int(left) - plan.a_left;
    return true;
}

// Distributes a left shift of the product, in any lanes; a shift beyond 126 bits leaves no bits of it.
void shift_product(int64_t left, FixedPlan& plan) {
    plan.a_left = int(std::clamp<int64_t>(left, 0, 63));
    plan.b_left = int(std::clamp<int64_t>(left - plan.a_left, 0, 63));
}

// TRN and RND of a product of two 16-bit lanes are one instruction if the codes are shifted so that the 16th or 15th
// bit is the last one kept.
bool takes_part_of_product(const FixedMatmul& g, FixedPlan& plan) {
    const FixedTarget& t = g.acc;
    if (t.shift <= 0 || t.width > 16 || (!plan.wraps_once && t.width - t.is_signed > 15)) return false;
    const Bound step = largest_step(largest_product(g), t.shift);
    if (!plan.wraps_once && !clamps(t) && largest_code(t) + step + 1 >= power(15)) return false;
    if (t.rounding == Rounding::down && share_places(g, 16 - t.shift, plan)) {
        plan.product = FixedProduct::high;
        return true;
    }
    if (t.rounding != Rounding::half_up || !share_places(g, 15 - t.shift, plan)) return false;
    // (-2^15)^2 rounds to 2^15, which overflows 16 bits.
    const bool reaches_end =
        g.a.is_signed && g.b.is_signed && g.a.magnitude() + plan.a_left == 15 && g.b.magnitude() + plan.b_left == 15;
    plan.product = FixedProduct::rounded;
    return !reaches_end || plan.wraps_once;
}

bool takes_pairs(const FixedMatmul& g, FixedPlan& plan) {
    if (!plan.wraps_once || g.acc.shift > 0 || !share_places(g, -g.acc.shift, plan)) return false;
    return g.acc.width <= 32 || g.a.magnitude() + g.b.magnitude() - g.acc.shift <= 29;
}

// Whether the path is exact; fills in its parameters.
bool is_exact(FixedPath path, const FixedMatmul& g, FixedPlan& plan) {
    plan.path = path;
    plan.product = FixedProduct::low;
    shift_product(-(g.has_product ? g.product : g.acc).shift, plan);
    const bool is_plain = !g.has_product && g.every == 1;
    const Bound p = largest_product(g);
    switch (path) {
    case FixedPath::pairs:
        return !g.has_product && takes_pairs(g, plan);
    case FixedPath::fused16:
        if (!is_plain || !(plan.wraps_once || has_short_loop(g.acc))) return false;
        if (takes_part_of_product(g, plan)) return true;
        plan.product = FixedProduct::low;
        shift_product(-g.acc.shift, plan);
        return steps_in(16, p, g.acc, plan.wraps_once);
    case FixedPath::fused32:
        return is_plain && (plan.wraps_once || has_short_loop(g.acc)) && steps_in(32, p, g.acc, plan.wraps_once);
    case FixedPath::lines32:
        return lines_in(32, g, plan.wraps_once);
    case FixedPath::lines64:
        return lines_in(64, g, plan.wraps_once);
    default:
        return true;
    }
}

} // namespace

bool rounds_products(const FixedTarget& t) {
    return t.shift <= 0 || t.rounding == Rounding::down || t.rounding == Rounding::half_up ||
           t.rounding == Rounding::half_down;
}

FixedPlan choose_plan(const FixedMatmul& g, FixedPath only, bool is_safe) {
    constexpr FixedPath fastest_first[] = {FixedPath::pairs,   FixedPath::fused16, FixedPath::fused32,
                                           FixedPath::lines32, FixedPath::lines64, FixedPath::wide};
    FixedPlan plan;
    for (FixedPath path : fastest_first) {
        if (only != FixedPath::choose && path != only && path != FixedPath::wide) continue;
        plan.wraps_once = rounds_products(g.acc) && (is_modular(g.acc) || is_safe);
        if (is_exact(path, g, plan)) break;
    }
    return plan;
}

bool converts_narrow(const FixedCodes& in, const FixedTarget& target) {
    return steps_in(64, power(in.magnitude()), target, false);
}

namespace {

// Calls f(first code, count, stride) for all lines of `inner` at every position of `outer`.
template <class S, class F> void for_lines(const S* data, const Index3& outer, const Index3& inner, F&& f) {
    const int64_t run = inner.size[2];
    for (int64_t i = 0; i < outer.count(); ++i)
        for (int64_t j = 0; j < inner.count(); j += run) f(data + outer.at(i) + inner.at(j), run, inner.stride[2]);
}

template <class S> uint64_t magnitude(S x) { return x < 0 ? -uint64_t(x) : uint64_t(x); }

template <class S> uint64_t largest(const S* data, const FixedCodes& x) {
    S lowest = 0, highest = 0;
    const bool by_k = x.k.stride[2] == 1;
    for_lines(data, by_k ? x.item : x.k, by_k ? x.k : x.item, [&](const S* from, int64_t count, int64_t step) {
        S low = lowest;
        S high = highest;
        if (step == 1) {
            for (int64_t i = 0; i < count; ++i) {
                low = std::min(low, from[i]);
                high = std::max(high, from[i]);
            }
        } else {
            for (int64_t i = 0; i < count; ++i) {
                low = std::min(low, from[i * step]);
                high = std::max(high, from[i * step]);
            }
        }
        lowest = low;
        highest = high;
    });
    return std::max(magnitude(lowest), magnitude(highest));
}

template <class S> uint64_t sum_of_magnitudes(const S* data, const FixedCodes& x, int64_t item) {
    Index3 only;
    uint64_t sum = 0;
    for_lines(data + x.item.at(item), only, x.k, [&](const S* from, int64_t count, int64_t step) {
        for (int64_t i = 0; i < count; ++i) sum += magnitude(from[i * step]);
    });
    return sum;
}

template <class F> auto with_source(const FixedCodes& x, F&& f) {
    return with_size<int8_t, int16_t, int32_t>(x.bytes, [&]<class S>() {
        return x.is_signed ? f(static_cast<const S*>(x.data)) : f(static_cast<const std::make_unsigned_t<S>*>(x.data));
    });
}

// Upper limit of a sum of magnitudes that keeps start + sum, and every partial sum, within the format.
class Limit {
public:
    explicit Limit(const FixedMatmul& g) : shift_(g.acc.shift), terms_(g.K) {
        Bound up = 0, down = 0; // bounds of the starting value
        for (int64_t m = 0; g.start && m < (g.start_m ? g.M : 1); ++m)
            for (int64_t n = 0; n < (g.start_n ? g.N : 1); ++n) {
                const int64_t code = g.start[m * g.start_m + n * g.start_n];
                const bool is_negative = g.acc.is_signed && code < 0;
                Bound& highest = is_negative ? down : up;
                highest = std::max(highest, Bound(is_negative ? -uint64_t(code) : uint64_t(code)));
            }
        const Bound end = largest_code(g.acc), hi = end - 1;
        const Bound lo = !g.acc.is_signed ? 0 : g.acc.symmetric ? hi : end;
        const Bound above = hi > up ? hi - up : 0, below = lo > down ? lo - down : 0;
        const bool only_grows = !g.a.is_signed && !g.b.is_signed && down == 0;
        room_ = only_grows ? above : std::min(above, below);
    }
    // Each term is rounded by less than one unit.
    bool holds(Bound sum) const {
        if (shift_ <= 0) return times(sum, power(-shift_)) <= room_;
        return (shift_ > 127 ? 0 : sum >> shift_) + Bound(terms_) <= room_;
    }

private:
    int64_t shift_, terms_;
    Bound room_ = 0;
};

} // namespace

Safety safe_rows(const FixedMatmul& g, bool* is_safe) {
    if (g.has_product || !rounds_products(g.acc) || is_modular(g.acc)) return Safety::no_row;
    const Limit limit(g);
    if (limit.holds(times(largest_product(g), Bound(g.K)))) return Safety::every_row;
    // Scanning the codes pays off if each serves many products.
    constexpr int64_t kMany = 16;
    if (g.a.bytes > 4 || g.b.bytes > 4 || g.M < kMany || g.N < kMany || g.K == 0) return Safety::no_row;
    const Bound highest = with_source(g.b, [&](const auto* data) { return largest(data, g.b); });
    int64_t count = 0;
    with_source(g.a, [&](const auto* data) {
        for (int64_t m = 0; m < g.M; ++m) {
            is_safe[m] = limit.holds(times(sum_of_magnitudes(data, g.a, m), highest));
            count += is_safe[m];
        }
    });
    return count == 0 ? Safety::no_row : count == g.M ? Safety::every_row : Safety::some_rows;
}

} // namespace fastiter::quant
