// Vectors of contiguous complex numbers, real part first, with the names that simd.hpp has for real ones. Each
// operation rounds like the scalar one in relax.hpp.
#pragma once
#include "relax/cpu/relax.hpp"

namespace fastiter::relax::FASTITER_LEVEL {

struct complexes {
    vec<double> v;
};

} // namespace fastiter::relax::FASTITER_LEVEL

namespace fastiter::FASTITER_LEVEL {

template <> struct vector_of<relax::Complex> {
    using type = relax::FASTITER_LEVEL::complexes;
};

} // namespace fastiter::FASTITER_LEVEL

namespace fastiter::relax::FASTITER_LEVEL {

// The overloads below would hide those of real numbers.
using fastiter::FASTITER_LEVEL::broadcast;
using fastiter::FASTITER_LEVEL::fma;
using fastiter::FASTITER_LEVEL::load;
using fastiter::FASTITER_LEVEL::store;

template <class T> struct real_type {
    using type = T;
};
template <> struct real_type<Complex> {
    using type = double;
};
template <class T> using real_of = typename real_type<T>::type;
template <class T> constexpr int reals_of = int(sizeof(T) / sizeof(real_of<T>)); // real numbers per number
template <class T> constexpr auto all_reals = std::make_index_sequence<lanes<real_of<T>>>();

FASTITER_INLINE double fma_one(double a, double b, double c) {
#if defined(FASTITER_FUSES)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}
FASTITER_INLINE float fma_one(float a, float b, float c) {
#if defined(FASTITER_FUSES)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
FASTITER_INLINE Complex fma_one(Complex a, Complex b, Complex c) {
    return {fma_one(-a.im, b.im, fma_one(a.re, b.re, c.re)), fma_one(a.im, b.re, fma_one(a.re, b.im, c.im))};
}
FASTITER_INLINE Complex fma_one(double a, Complex b, Complex c) {
    return {fma_one(a, b.re, c.re), fma_one(a, b.im, c.im)};
}
FASTITER_INLINE Complex operator-(Complex a) { return {-a.re, -a.im}; }

FASTITER_INLINE complexes load(const Complex* p) { return {load(&p->re)}; }
FASTITER_INLINE void store(Complex* p, complexes x) { store(&p->re, x.v); }
template <size_t... I> FASTITER_INLINE vec<double> repeated(double even, double odd, std::index_sequence<I...>) {
    return vec<double>{(I % 2 ? odd : even)...};
}
FASTITER_INLINE complexes broadcast(Complex a) { return {repeated(a.re, a.im, all_reals<Complex>)}; }

FASTITER_INLINE complexes operator+(complexes a, complexes b) { return {a.v + b.v}; }
FASTITER_INLINE complexes operator-(complexes a, complexes b) { return {a.v - b.v}; }
FASTITER_INLINE complexes operator*(complexes a, complexes b) { return {complex_product<double, false>(a.v, b.v)}; }
FASTITER_INLINE complexes operator*(Complex a, complexes b) { return broadcast(a) * b; }
FASTITER_INLINE complexes operator*(double a, complexes b) { return {a * b.v}; }
FASTITER_INLINE complexes fma(complexes a, Complex b, complexes c) {
    const vec<double> crossed = repeated(-b.im, b.im, all_reals<Complex>);
    return {fma(pairs::swapped(a.v, all_reals<Complex>), crossed, fma(a.v, b.re, c.v))};
}
FASTITER_INLINE complexes fma(complexes a, double b, complexes c) { return {fma(a.v, b, c.v)}; }

// All ones in both lanes of a nonzero number
template <class V> FASTITER_INLINE auto nonzero(V x) { return x != 0; }
FASTITER_INLINE auto nonzero(complexes x) {
    return (pairs::real_twice(x.v, all_reals<Complex>) != 0) | (pairs::imaginary_twice(x.v, all_reals<Complex>) != 0);
}
template <class M, class V> FASTITER_INLINE V pick(M m, V yes, V no) { return m ? yes : no; }
template <class M> FASTITER_INLINE complexes pick(M m, complexes yes, complexes no) { return {m ? yes.v : no.v}; }

// Element i of a vector
template <class V> FASTITER_INLINE auto number(V x, int i) { return x[i]; }
FASTITER_INLINE Complex number(complexes x, int i) { return {x.v[2 * i], x.v[2 * i + 1]}; }

// The numbers x[i - 1], and x[i + 1], for all i of a vector
template <int Reals, class V, size_t... I> FASTITER_INLINE V one_before(V last, V x, std::index_sequence<I...>) {
    return __builtin_shufflevector(last, x, int(I + sizeof...(I) - Reals)...);
}
template <int Reals, class V, size_t... I> FASTITER_INLINE V one_after(V x, V next, std::index_sequence<I...>) {
    return __builtin_shufflevector(x, next, int(I + Reals)...);
}
template <int Reals, size_t... I>
FASTITER_INLINE complexes one_before(complexes last, complexes x, std::index_sequence<I...> all) {
    return {one_before<Reals>(last.v, x.v, all)};
}
template <int Reals, size_t... I>
FASTITER_INLINE complexes one_after(complexes x, complexes next, std::index_sequence<I...> all) {
    return {one_after<Reals>(x.v, next.v, all)};
}

// Mask of every other number of a vector, starting with the first
template <class T, size_t... I> FASTITER_INLINE mask<real_of<T>> alternate(std::index_sequence<I...>) {
    return mask<real_of<T>>{(I / reals_of<T> % 2 == 0 ? -1 : 0)...};
}

} // namespace fastiter::relax::FASTITER_LEVEL
