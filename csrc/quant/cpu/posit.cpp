// Posits: rounded on the bit string, without constructing it.
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
template <class T> struct Words {
    using type __attribute__((vector_size(kVectorBytes))) = typename unsigned_of<T>::type;
};

// x = 2^(k 2^es + e) (1 + f). The bit string after the sign is the regime (k + 1 ones and a zero, or -k zeros and a
// one), e, and f. The word t holds two bits of the regime, 10 or 01, then e and f; an arithmetic right shift by k or -k
// - 1 gives the string. So the last `dropped` bits of t do not fit into the posit: t is rounded at them. A carry into
// the regime turns 01 into 10 and 10 into 11, which is the next k with e and f zero.
template <class T, Rounding R, bool Full>
void posit(const QuantFormat& f, const T* x, T* y, int64_t n, const uint32_t* random, QuantCounts& counts,
           bool stream) {
    using U = typename unsigned_of<T>::type;
    using Unsigned = typename Words<T>::type;
    using Signed = mask<T>;
    constexpr int kBits = 8 * sizeof(T);
    const int es = f.posit.es, places = kMantissa<T> + es, gap = kBits - 2 - places, unread = kBits - (f.posit.n - 1);
    const U one = U(1) << (kBits - 1);
    const vec<T> largest = broadcast(power_of_2<T>(f.posit.max_exponent)),
                 smallest = broadcast(power_of_2<T>(-f.posit.max_exponent));
    const vec<T> nan = broadcast(T(f.nan)), all_codes = broadcast(T(uint64_t(1) << f.posit.n));
    const vec<T> not_real = f.codes ? all_codes * T(0.5) : broadcast(T(__builtin_nan("")));
    Counters<T> count;
    const bool any_nan =
        each_vector<T, R == Rounding::stochastic>(x, y, n, random, stream, [&](vec<T> raw, random_words<T> words) {
            const vec<T> from = Full ? select<T>(raw != raw, nan, raw) : raw;
            const vec<T> a = magnitude_of<T>(from);
            const vec<T> clamped = min_keeping_nan(largest, max_keeping_nan(smallest, a));
            const Unsigned bits = (Unsigned)clamped - U(U(kBias<T>) << kMantissa<T>);
            const Signed k = (Signed)bits >> places, below_one = k >> (kBits - 1);
            const Unsigned shift = (Unsigned)(k ^ below_one), prefix = one >> (Unsigned)(below_one & 1);
            const Unsigned t = prefix | ((bits & ((U(1) << places) - 1)) << gap);
            const Unsigned dropped = shift + U(unread), last = (Unsigned{} + 1) << dropped;
            Unsigned add;
            if constexpr (R == Rounding::even) {
                add = (last >> 1) - 1 + ((t >> dropped) & 1);
            } else {
                const Unsigned r = __builtin_convertvector(words >> 1, Unsigned);
                const Signed more = (Signed)dropped - kRandomBits; // dropped bits in excess of the random bits
                add = (r << (Unsigned)(more > 0 ? more : 0)) >> (Unsigned)(more < 0 ? -more : 0);
            }
            const Unsigned rounded = (t + add) & -last;
            const mask<T> zero = a == T(0), bad = !(a < T(__builtin_inf()));
            if constexpr (Full) {
                count.nan.add(raw != raw);
                count.overflow.add((a > largest) & ~(from != from));
            }
            vec<T> result;
            if (f.codes) {
                // zeros if the string begins with 0
                const Unsigned ones = (Unsigned)((Signed)rounded >> (Signed)shift);
                const Unsigned string = (below_one ? rounded >> shift : ones) >> U(unread);
                result = __builtin_convertvector((Signed)string, vec<T>);
                result = select<T>(from < T(0), all_codes - result, result);
            } else {
                const Unsigned base = (Unsigned)((k << es) + kBias<T>) << kMantissa<T>;
                result = copy_sign<T>((vec<T>)(base + ((rounded - prefix) >> gap)), from);
            }
            result = (vec<T>)((mask<T>)result & ~zero);
            return select<T>(bad, not_real, result);
        });
    if constexpr (Full)
        count.add_to(counts);
    else
        counts.nan += any_nan;
}

} // namespace

template <class T> QuantKernel<T> posit_kernel(const QuantFormat& f) {
    if (f.rounding == Rounding::stochastic)
        return f.count ? posit<T, Rounding::stochastic, true> : posit<T, Rounding::stochastic, false>;
    return f.count ? posit<T, Rounding::even, true> : posit<T, Rounding::even, false>;
}
template QuantKernel<float> posit_kernel<float>(const QuantFormat&);
template QuantKernel<double> posit_kernel<double>(const QuantFormat&);

} // namespace fastiter::quant::FASTITER_LEVEL
