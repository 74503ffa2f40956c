// How the block scans compute: K numbers of a group as parts of vectors where K is 2, 4, 8 or 16, else one after the other.
#pragma once
#include "scan.hpp"

namespace fastiter::FASTITER_LEVEL {

// A number that is a pair of reals where Complex is true
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

// Calls f with constant<0>, constant<1>, ..., constant<N - 1>: indices of shuffles have to be constants.
template <int I> struct constant {
    static constexpr int value = I;
};
template <class F, int... I> FASTITER_INLINE void unrolled(F f, std::integer_sequence<int, I...>) {
    (f(constant<I>{}), ...);
}
template <int N, class F> FASTITER_INLINE void unrolled(F f) { unrolled(f, std::make_integer_sequence<int, N>()); }

namespace shuffles {
// Every second piece of `Piece` lanes of a, then of b
template <int Piece, int Odd, class V, size_t... L>
FASTITER_INLINE V every_second(V a, V b, std::index_sequence<L...>) {
    return __builtin_shufflevector(a, b, int((L / Piece * 2 + Odd) * Piece + L % Piece)...);
}
// Of vectors of numbers of E lanes: number J of every M in all M places
template <int E, int M, int J, class V, size_t... L> FASTITER_INLINE V spread(V v, std::index_sequence<L...>) {
    return __builtin_shufflevector(v, v, int((L / E / M * M + J) * E + L % E)...);
}
// The places of a vector of K x K matrices, whose first row is that of number First: each number in all places of its row,
template <int E, int K, int First, class V, size_t... L> FASTITER_INLINE V rows(V v, std::index_sequence<L...>) {
    return __builtin_shufflevector(v, v, int((First + L / E / K) * E + L % E)...);
}
// and the numbers of its group in those of its columns
template <int E, int K, int First, class V, size_t... L> FASTITER_INLINE V columns(V v, std::index_sequence<L...>) {
    return __builtin_shufflevector(v, v, int(((First + L / E / K) / K * K + L / E % K) * E + L % E)...);
}
} // namespace shuffles

// The pieces of M vectors, numbered from end to end: those whose number is j modulo M become vector j.
template <class T, int Piece, int M> FASTITER_INLINE void deal(vec<T> (&v)[M]) {
    if constexpr (M > 1) {
        constexpr auto all = std::make_index_sequence<lanes<T>>();
        vec<T> even[M / 2], odd[M / 2];
#pragma GCC unroll 16
        for (int i = 0; i < M / 2; ++i) {
            even[i] = shuffles::every_second<Piece, 0>(v[2 * i], v[2 * i + 1], all);
            odd[i] = shuffles::every_second<Piece, 1>(v[2 * i], v[2 * i + 1], all);
        }
        deal<T, Piece>(even);
        deal<T, Piece>(odd);
#pragma GCC unroll 16
        for (int i = 0; i < M / 2; ++i) v[2 * i] = even[i], v[2 * i + 1] = odd[i];
    }
}

// What the code for blocks of K numbers knows of a vector
template <class T, bool Complex, int K> struct Blocks {
    static constexpr int E = Complex ? 2 : 1; // lanes of a number
    static constexpr int W = lanes<T> / E;    // numbers of a vector
    static constexpr int M = K < W ? K : W;   // numbers of a group that one vector has
    static constexpr int parts = K / M;       // vectors of a group, where it has more than one
    static constexpr auto all = std::make_index_sequence<lanes<T>>();
    using N = Numbers<T, Complex>;

    // Number J of each group in all of the group's places (of K > W, that of the vector's)
    template <int J> static FASTITER_INLINE vec<T> spread(vec<T> v) { return shuffles::spread<E, M, J>(v, all); }

    // Against time, small matrices are read in falling order, as one stream. Large ones are not: each is read from its start to
    // its end in any case, which makes no stream of all, while a whole line of them in rising order does.
    static constexpr bool large = K * K * E * sizeof(T) >= 1024;
    static FASTITER_INLINE void fetch_next(const T* A, bool backwards) {
        constexpr int size = K * parts * lanes<T>;
        if constexpr (large) {
#pragma GCC unroll 8
            for (int i = 0; i < K * parts; ++i) fetch(A + 2 * size + i * lanes<T>);
        } else if (K * K * E * sizeof(T) >= 512 && backwards) {
#pragma GCC unroll 8
            for (int i = 0; i < K * parts; ++i) fetch(A - 2 * size + i * lanes<T>);
        }
    }

    // Reads vector i of the matrices of `count` numbers' rows; what is beyond them is 0.
    static FASTITER_INLINE vec<T> matrix(const T* A, int i, int64_t count) {
        if (count >= W) return load(A + i * lanes<T>);
        return load_up_to(A + i * lanes<T>, max_of(0, (count * K - i * W) * E));
    }
};

} // namespace fastiter::FASTITER_LEVEL
