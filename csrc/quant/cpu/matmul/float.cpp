// c = a b with a small-float accumulator. A sum that T cannot represent is first rounded to odd, so that the second
// rounding, to the accumulator's format, is correct (docs/quant/fixed_theory.md).
#include "core/cpu/tile.hpp"
#include "quant/cpu/matmul/float_kernels.hpp"
#include "quant/cpu/significand.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

// Computation of a step: the sum in T is exact, rounded to nearest, or rounded to odd; then it is rounded to the
// format. `machine`: the format is float itself, so that the hardware's rounding is the format's.
enum class Sum { exact, nearest, odd, machine };

// Rounds to nearest, ties to even: adding 1.5 2^23 last places leaves no bits below them. Numbers beyond `largest`,
// 2^(104 + mantissa), stay beyond it, so it must exceed the format's range.
struct NearestEven {
    mask<float> exponents, smallest, largest, to_places, sign;
    explicit NearestEven(const FloatAccumulator& f)
        : exponents(all_bits<float>(0x7f800000)), smallest(all_bits<float>(bits_of_power<float>(f.min_exponent))),
          largest(all_bits<float>(bits_of_power<float>(104 + f.mantissa))),
          to_places(all_bits<float>((23 - f.mantissa) << 23 | 0x400000)),
          sign(f.has_minus_zero ? sign_bit<float>() : mask<float>{}) {}
    static bool serves(const FloatAccumulator& f) {
        return f.mantissa > 0 && f.largest < double(power_of_2<double>(104 + f.mantissa));
    }
    FASTITER_INLINE vec<float> operator()(vec<float> x) const {
        const mask<float> e = (mask<float>)x & exponents, above = e > smallest ? e : smallest;
        const vec<float> places = (vec<float>)((above < largest ? above : largest) + to_places);
        return (vec<float>)((mask<float>)((x + places) - places) | ((mask<float>)x & sign));
    }
};

template <class T> struct Accumulator {
    Significand<T> significand;
    NearestEven nearest_even;
    T largest, over, under, infinite, zero;
    int dropped;
    Accumulator(const FloatAccumulator& f, bool own_exponents)
        : significand(f.mantissa, own_exponents ? 0 : f.min_exponent, true), nearest_even(f), largest(T(f.largest)),
          over(T(f.over)), under(T(f.under)), infinite(T(f.infinite)), zero(f.has_minus_zero ? T(-0.0) : T(0)),
          dropped(kMantissa<T> - f.mantissa) {}
};

// a b + c rounded to odd: the odd one of the two neighbours, unless T represents the sum exactly
#if defined(__AVX512F__)
FASTITER_INLINE vec<float> sum_to_odd(vec<float> a, vec<float> b, vec<float> c) {
    const __m512 x = (__m512)a, y = (__m512)b, z = (__m512)c;
    const vec<float> below = (vec<float>)_mm512_fmadd_round_ps(x, y, z, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const vec<float> above = (vec<float>)_mm512_fmadd_round_ps(x, y, z, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    const mask<float> is_odd = ((mask<float>)below & 1) != 0;
    return is_odd ? below : above;
}
#endif

// The product is exact: it has at most 53 bits.
FASTITER_INLINE vec<double> sum_to_odd(vec<double> a, vec<double> b, vec<double> c) {
    const vec<double> p = a * b, sum = p + c, from_c = sum - p;
    const vec<double> error = (p - (sum - from_c)) + (c - from_c); // exact; NaN if the sum is not finite
    const mask<double> bits = (mask<double>)sum;
    const mask<double> is_even_and_cut = (magnitude_of<double>(error) > 0.0) & ((bits & 1) == 0);
    const mask<double> outward = ((bits ^ (mask<double>)error) >> 63) | 1; // 1 away from zero, -1 toward it
    return (vec<double>)(bits + (outward & is_even_and_cut));
}

// a b + c rounded to float, or to double with in_double
FASTITER_INLINE vec<float> nearest_sum(vec<float> a, vec<float> b, vec<float> c, bool) { return fma(a, b, c); }
FASTITER_INLINE vec<double> nearest_sum(vec<double> a, vec<double> b, vec<double> c, bool in_double) {
    using narrow __attribute__((vector_size(kVectorBytes / 2))) = float;
    if (in_double) return a * b + c;
    return __builtin_convertvector(__builtin_convertvector(sum_to_odd(a, b, c), narrow), vec<double>);
}

// OWN: the format has T's exponent range.
template <class T, Rounding R, Sum H, bool OWN>
FASTITER_INLINE vec<T> step(vec<T> a, vec<T> b, vec<T> c, const Accumulator<T>& to) {
    vec<T> sum, r;
    if constexpr (H == Sum::exact)
        sum = a * b + c;
    else if constexpr (H == Sum::nearest)
        sum = fma(a, b, c); // the product is exact
    else
        sum = sum_to_odd(a, b, c);
    if constexpr (H == Sum::nearest && R == Rounding::even && !OWN)
        r = to.nearest_even(sum);
    else if constexpr (OWN)
        r = without_bits<T, R>(sum, random_words<T>{}, to.dropped);
    else
        r = to_significand<T, R>(sum, random_words<T>{}, to.significand, broadcast(to.zero));
    if constexpr (R == Rounding::down || R == Rounding::up || R == Rounding::zero) {
        // The directed modes differ in the results for the two ends of the range, and for overflow and infinities.
        const vec<T> infinite = copy_sign<T>(broadcast(to.infinite), sum), none = broadcast(T(__builtin_inf()));
        const vec<T> cut = r > to.largest ? broadcast(to.over) : (r < -to.largest ? broadcast(to.under) : r);
        return magnitude_of<T>(sum) == none ? infinite : cut;
    }
    return magnitude_of<T>(r) > to.largest ? copy_sign<T>(broadcast(to.over), r) : r;
}

// a: rows with stride a_row; panel as in tile.hpp; out: rows of NV vectors
template <class T, Rounding R, Sum H, bool OWN, int ROWS, int NV>
void tile(const T* a, int64_t a_row, const T* panel, const QuantMatmul& g, T* out) {
    constexpr int W = lanes<T>;
    const Accumulator<T> to(g.acc, OWN);
    vec<T> acc[ROWS][NV] = {};
    auto each = [&](int64_t k, auto f) {
        vec<T> line[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) line[v] = load(panel + (k * NV + v) * W);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
            const vec<T> x = broadcast(a[i * a_row + k]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[i][v] = f(x, line[v], acc[i][v]);
        }
    };
    auto add = [&](vec<T> x, vec<T> y, vec<T> c) { return nearest_sum(x, y, c, g.in_double); };
    for (int64_t k = 0; k < g.K; ++k) {
        const int64_t last = H == Sum::machine ? g.K : min_of(g.K, k + g.every) - 1;
        for (; k < last; ++k) each(k, add);
        if constexpr (H != Sum::machine)
            each(k, [&](vec<T> x, vec<T> y, vec<T> c) { return step<T, R, H, OWN>(x, y, c, to); });
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) store(out + (i * NV + v) * W, acc[i][v]);
}

constexpr int kRows = 4, kVectors = 2;
template <class T> using Tile = void (*)(const T* a, int64_t a_row, const T* panel, const QuantMatmul&, T* out);
template <class T> struct Tiles {
    Tile<T> full, narrow;
};

template <class T, Rounding R, Sum H, bool OWN> Tiles<T> tiles() {
    return {tile<T, R, H, OWN, kRows, kVectors>, tile<T, R, H, OWN, kRows, 1>};
}

template <class T, Sum H, bool OWN = false> Tiles<T> tiles_for(Rounding r) {
    using enum Rounding;
    return with_constant<down, up, zero, away, half_away, even>(r, []<Rounding R>() { return tiles<T, R, H, OWN>(); });
}

template <bool OWN> Tiles<float> nearest_tiles(Rounding r) {
    if (r == Rounding::half_away) return tiles<float, Rounding::half_away, Sum::nearest, OWN>();
    return tiles<float, Rounding::even, Sum::nearest, OWN>();
}

bool has_own_exponents(const FloatAccumulator& f) { return f.min_exponent == -126; }

#if defined(FASTITER_FUSES)
bool is_machines_own(const QuantMatmul& g) {
    const FloatAccumulator& f = g.acc;
    return !g.in_double && f.rounding == Rounding::even && f.mantissa == 23 && has_own_exponents(f) &&
           f.has_minus_zero && f.largest == double(__FLT_MAX__) && f.over == __builtin_inf();
}
#endif

// Whether floats suffice: they need two more bits than the format, and its exponent range or the factors of
// to_significand.
bool is_narrow(const QuantMatmul& g) {
    const FloatAccumulator& f = g.acc;
    const bool has_factors = f.min_exponent - f.mantissa >= -125 && f.min_exponent <= f.mantissa;
    return !g.in_double && f.mantissa <= 21 && (has_own_exponents(f) ? f.has_minus_zero : has_factors);
}

// T: type of the computation, S: type in memory
template <class T, class S> class Product {
public:
    Product(const QuantMatmul& g, Tiles<T> tiles) : g_(g), tiles_(tiles) {}

    size_t workspace(int threads) const { return size_t(packed_a() + threads * panel_size()) * sizeof(T); }

    void run(Team team) {
        T* a = static_cast<T*>(g_.workspace);
        T* panel = a + packed_a() + team.id * panel_size();
        const Range packs = share(g_.M, team.id, team.size);
        pack_a(packs, a);
        for (int64_t i = 0; team.id == 0 && i < kRows * g_.K; ++i) a[g_.M * g_.K + i] = 0;
        wait(team.barriers[0], team.size);
        const int64_t panels = ceil_div(g_.N, kColumns);
        const bool by_panel = panels >= 2 * team.size;
        const Range mine = by_panel ? share(panels, team.id, team.size) : Range{0, panels};
        const Range rows = by_panel ? Range{0, g_.M} : packs;
        for (int64_t j = mine.begin; j < mine.end; ++j) run_panel(a, panel, rows, j * kColumns);
    }

private:
    static constexpr int64_t kColumns = kVectors * lanes<T>;
    // Padding rows after the last one, for a tile that is not full.
    int64_t packed_a() const { return round_up((g_.M + kRows) * g_.K, 64); }
    int64_t panel_size() const { return round_up(g_.K * kColumns, 64); }

    void pack_a(Range rows, T* out) const {
        for (int64_t m = rows.begin; m < rows.end; ++m) {
            const S* from = static_cast<const S*>(g_.a) + m * g_.a_m;
            for (int64_t k = 0; k < g_.K; ++k) out[m * g_.K + k] = T(from[k * g_.a_k]);
        }
    }

    void pack_panel(int64_t n0, int64_t count, int64_t columns, T* out) const {
        for (int64_t k = 0; k < g_.K; ++k, out += columns) {
            const S* from = static_cast<const S*>(g_.b) + k * g_.b_k + n0 * g_.b_n;
            for (int64_t n = 0; n < count; ++n) out[n] = T(from[n * g_.b_n]);
            for (int64_t n = count; n < columns; ++n) out[n] = 0;
        }
    }

    void run_panel(const T* a, T* panel, Range rows, int64_t n0) const {
        const int64_t count = min_of(kColumns, g_.N - n0);
        const bool is_small = count <= lanes<T>;
        const int64_t columns = is_small ? lanes<T> : kColumns;
        pack_panel(n0, count, columns, panel);
        for (int64_t m = rows.begin; m < rows.end; m += kRows) {
            alignas(64) T out[kRows * kColumns];
            (is_small ? tiles_.narrow : tiles_.full)(a + m * g_.K, g_.K, panel, g_, out);
            for (int64_t i = 0; i < min_of(kRows, rows.end - m); ++i) {
                S* to = static_cast<S*>(g_.c) + (m + i) * g_.c_m + n0;
                for (int64_t n = 0; n < count; ++n) to[n] = S(out[i * columns + n]);
            }
        }
    }

    const QuantMatmul& g_;
    const Tiles<T> tiles_;
};

template <class F> auto with_product(const QuantMatmul& g, F&& f) {
    const Rounding r = g.acc.rounding;
    const bool own = has_own_exponents(g.acc);
#if defined(FASTITER_FUSES)
    if (is_machines_own(g)) return f(Product<float, float>(g, tiles<float, Rounding::even, Sum::machine, true>()));
#endif
    const bool serves = own || r == Rounding::half_away || NearestEven::serves(g.acc);
    if (is_narrow(g) && g.sums == FloatSums::nearest_in_float && serves)
        return f(Product<float, float>(g, own ? nearest_tiles<true>(r) : nearest_tiles<false>(r)));
#if defined(__AVX512F__)
    if (is_narrow(g))
        return f(Product<float, float>(g, own ? tiles_for<float, Sum::odd, true>(r) : tiles_for<float, Sum::odd>(r)));
#endif
    const bool fit = g.sums == FloatSums::exact_in_double;
    const Tiles<double> in_double = fit ? tiles_for<double, Sum::exact>(r) : tiles_for<double, Sum::odd>(r);
    if (g.in_double) return f(Product<double, double>(g, in_double));
    return f(Product<double, float>(g, in_double));
}

size_t workspace(const QuantMatmul& g, int threads) {
    return with_product(g, [&](const auto& product) { return product.workspace(threads); });
}

void run(const QuantMatmul& g, Team team) {
    with_product(g, [&](auto product) { product.run(team); });
}

} // namespace

const MatmulKernels matmul_kernels = {workspace, run};

} // namespace fastiter::quant::FASTITER_LEVEL
