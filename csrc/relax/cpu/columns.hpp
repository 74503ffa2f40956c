// K contiguous numbers, real or complex, as vectors: a row for K right-hand sides, or K rows of a block. Explicit
// vectors, as the compiler does not vectorise a loop over an array that stays live across a longer loop.
#pragma once
#include "relax/cpu/relax.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

template <int Width> struct few;
#define FASTITER_FEW(WIDTH)                                                           \
    template <> struct few<WIDTH> {                                                   \
        using type __attribute__((vector_size(8 * WIDTH))) = double;                  \
        using unaligned __attribute__((vector_size(8 * WIDTH), aligned(8))) = double; \
        using halves __attribute__((vector_size(4 * WIDTH), aligned(4))) = float;     \
    };
FASTITER_FEW(2)
FASTITER_FEW(4)
FASTITER_FEW(8)
template <> struct few<1> {
    using type = double;
    using unaligned = double;
    using halves = float;
};

template <class S, int K> struct Columns {
    static constexpr bool is_complex = sizeof(S) == 16;
    static constexpr int doubles = K * int(sizeof(S) / 8);
    static constexpr int width = doubles < lanes<double> ? doubles : lanes<double>, count = doubles / width;
    using type = typename few<width>::type;
    using unaligned = typename few<width>::unaligned;
    using halves = typename few<width>::halves;

    type part[count] = {};

    FASTITER_INLINE Columns() = default;
    template <class T> FASTITER_INLINE explicit Columns(const T* from) {
        for (int i = 0; i < count; ++i) part[i] = read(from, i);
    }
    template <class T> FASTITER_INLINE void store(T* to) const {
        for (int i = 0; i < count; ++i) write(to, i, part[i]);
    }

    FASTITER_INLINE static type read(const double* p, int i) {
        return *reinterpret_cast<const unaligned*>(p + i * width);
    }
    FASTITER_INLINE static type read(const Complex* p, int i) { return read(reinterpret_cast<const double*>(p), i); }
    FASTITER_INLINE static type read(const float* p, int i) {
        if constexpr (width == 1)
            return double(p[i]);
        else
            return __builtin_convertvector(*reinterpret_cast<const halves*>(p + i * width), type);
    }
    FASTITER_INLINE static void write(double* p, int i, type v) { *reinterpret_cast<unaligned*>(p + i * width) = v; }
    FASTITER_INLINE static void write(Complex* p, int i, type v) { write(reinterpret_cast<double*>(p), i, v); }
    FASTITER_INLINE static void write(float* p, int i, type v) {
        if constexpr (width == 1)
            p[i] = float(v);
        else
            *reinterpret_cast<halves*>(p + i * width) = __builtin_convertvector(v, halves);
    }

    // x with its real parts duplicated, with its imaginary parts duplicated, and with both exchanged
    template <size_t... I> FASTITER_INLINE static type reals(type x, std::index_sequence<I...>) {
        return __builtin_shufflevector(x, x, int(I & ~size_t(1))...);
    }
    template <size_t... I> FASTITER_INLINE static type imaginaries(type x, std::index_sequence<I...>) {
        return __builtin_shufflevector(x, x, int(I | 1)...);
    }
    template <size_t... I> FASTITER_INLINE static type exchanged(type x, std::index_sequence<I...>) {
        return __builtin_shufflevector(x, x, int(I ^ 1)...);
    }
    template <size_t... I> FASTITER_INLINE static type alternating(std::index_sequence<I...>) {
        return type{(I % 2 ? 1.0 : -1.0)...};
    }

    // Products that round like scalar ones: one scalar times all numbers, and elementwise
    FASTITER_INLINE static type product(double a, type x) { return a * x; }
    FASTITER_INLINE static type product(Complex a, type x) {
        constexpr std::make_index_sequence<width> all{};
        return a.re * x + (a.im * alternating(all)) * exchanged(x, all);
    }
    FASTITER_INLINE static type products(type a, type x) {
        if constexpr (is_complex) {
            constexpr std::make_index_sequence<width> all{};
            return reals(a, all) * x + (imaginaries(a, all) * alternating(all)) * exchanged(x, all);
        } else
            return a * x;
    }
    FASTITER_INLINE static type conjugates(type a) {
        if constexpr (is_complex)
            return -alternating(std::make_index_sequence<width>{}) * a;
        else
            return a;
    }
    // Selects the lanes of `yes` where a number of a is 0, else those of `no`.
    FASTITER_INLINE static type where_zero(type a, type yes, type no) {
        if constexpr (is_complex) {
            constexpr std::make_index_sequence<width> all{};
            return ((reals(a, all) == 0) & (imaginaries(a, all) == 0)) ? yes : no;
        } else
            return a == 0 ? yes : no;
    }

    // Subtract a x, for one a and for one a per column.
    template <class V> FASTITER_INLINE void subtract(S a, const V* x) {
        for (int i = 0; i < count; ++i) part[i] -= product(a, read(x, i));
    }
    template <class A, class V> FASTITER_INLINE void subtract_each(const A* a, const V* x) {
        for (int i = 0; i < count; ++i) part[i] -= products(read(a, i), read(x, i));
    }
    // The same, only where a is not 0
    template <class A, class V> FASTITER_INLINE void subtract_nonzero(const A* a, const V* x) {
        for (int i = 0; i < count; ++i) {
            const type factor = read(a, i);
            part[i] = where_zero(factor, part[i], part[i] - products(factor, read(x, i)));
        }
    }
};

// relax_one for K numbers with z = scale times the sums
template <class V, class S, int K>
FASTITER_INLINE void relax_columns(const RelaxStep<V>& s, int64_t at, S scale, const Columns<S, K>& sum) {
    using C = Columns<S, K>;
    const double keep = 1 - s.omega;
    for (int i = 0; i < C::count; ++i) {
        const auto z = C::product(scale, sum.part[i]), x = C::read(s.x + at, i);
        if (s.d) {
            const auto d = s.momentum * C::read(s.d + at, i) + s.omega * (z - x);
            C::write(s.d + at, i, d);
            C::write(s.y + at, i, x + d);
        } else
            C::write(s.y + at, i, keep != 0 ? keep * x + s.omega * z : z);
    }
}

} // namespace fastiter::relax::FASTITER_LEVEL
