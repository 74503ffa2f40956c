// The arithmetic of one number after the other, for blocks whose size no vector fits.
#pragma once
#include "scan.hpp"

namespace fastiter::FASTITER_LEVEL {

// Columns of A for a column of x: blocks of K x K lie K apart.
FASTITER_INLINE int64_t matrix_column(int64_t column, int64_t K) { return column * K; }

template <class T, bool Complex> struct Scalar {
    T re, im;
    static constexpr int64_t size = Complex ? 2 : 1;
    static FASTITER_INLINE Scalar load(const T* p) { return {p[0], Complex ? p[Complex] : T(0)}; }
    FASTITER_INLINE void store(T* p) const {
        p[0] = re;
        if (Complex) p[Complex] = im;
    }
    FASTITER_INLINE Scalar operator+(Scalar o) const { return {re + o.re, im + o.im}; }
    FASTITER_INLINE Scalar operator*(Scalar o) const {
        return Complex ? Scalar{re * o.re - im * o.im, re * o.im + im * o.re} : Scalar{re * o.re, T(0)};
    }
    FASTITER_INLINE Scalar conjugate_times(Scalar o) const {
        return Complex ? Scalar{re * o.re + im * o.im, re * o.im - im * o.re} : Scalar{re * o.re, T(0)};
    }
};

} // namespace fastiter::FASTITER_LEVEL
