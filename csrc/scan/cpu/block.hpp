// Vector helpers of the block scans: the K numbers of a group are vectorised if K is 2, 4, 8 or 16, otherwise computed
// one by one.
#pragma once
#include "scan/cpu/sequences.hpp"

namespace fastiter::scan::FASTITER_LEVEL {

// A real number, or a complex one (two reals) if Complex
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

// Calls f with constant<0>, constant<1>, ..., constant<N - 1>, as shuffle indices must be compile-time constants.
template <int I> struct constant {
    static constexpr int value = I;
};
template <class F, int... I> FASTITER_INLINE void unrolled(F f, std::integer_sequence<int, I...>) {
    (f(constant<I>{}), ...);
}
template <int N, class F> FASTITER_INLINE void unrolled(F f) { unrolled(f, std::make_integer_sequence<int, N>()); }

namespace shuffles {
// Every second piece of `Piece` lanes, first of a, then of b
template <int Piece, int Odd, class V, size_t... L>
FASTITER_INLINE V every_second(V a, V b, std::index_sequence<L...>) {
    return __builtin_shufflevector(a, b, int((L / Piece * 2 + Odd) * Piece + L % Piece)...);
}
// For numbers of E lanes: copies number J of every M numbers to all M positions.
template <int E, int M, int J, class V, size_t... L> FASTITER_INLINE V spread(V v, std::index_sequence<L...>) {
    return __builtin_shufflevector(v, v, int((L / E / M * M + J) * E + L % E)...);
}
// For a vector of K x K matrices whose first row belongs to number First: copies each number to all columns of its row,
template <int E, int K, int First, class V, size_t... L> FASTITER_INLINE V rows(V v, std::index_sequence<L...>) {
    return __builtin_shufflevector(v, v, int((First + L / E / K) * E + L % E)...);
}
// and each number of the group to its column.
template <int E, int K, int First, class V, size_t... L> FASTITER_INLINE V columns(V v, std::index_sequence<L...>) {
    return __builtin_shufflevector(v, v, int(((First + L / E / K) / K * K + L / E % K) * E + L % E)...);
}
} // namespace shuffles

// Deals out the pieces of M vectors, numbered consecutively: the pieces whose number is j modulo M become vector j.
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
        for (int i = 0; i < M / 2; ++i) {
            v[2 * i] = even[i];
            v[2 * i + 1] = odd[i];
        }
    }
}

// Vector layout of groups of K numbers
template <class T, bool Complex, int K> struct Blocks {
    static constexpr int E = Complex ? 2 : 1; // lanes per number
    static constexpr int W = lanes<T> / E;    // numbers per vector
    static constexpr int M = K < W ? K : W;   // numbers of one group per vector
    static constexpr int parts = K / M;       // vectors per group if a group spans several
    static constexpr auto all = std::make_index_sequence<lanes<T>>();
    using N = Numbers<T, Complex>;

    // Copies number J of each group to all positions of the group (for K > W, within the vector).
    template <int J> static FASTITER_INLINE vec<T> spread(vec<T> v) { return shuffles::spread<E, M, J>(v, all); }

    // If later steps have lower addresses, the matrices of a line are read in descending order too, as one stream for the
    // hardware prefetcher. Matrices of 1 KB and more are long streams themselves, which are read in ascending order.
    static constexpr bool large = K * K * E * sizeof(T) >= 1024;

    // Prefetch distance in reals, for lines of `line` reals that follow each other at a distance of `step` reals
    static int64_t ahead(int64_t step, int64_t line) {
        constexpr int64_t distance = max_of(int64_t(2 * K * parts * lanes<T>), kAheadBytes / int64_t(sizeof(T)));
        if (step >= 0) return distance;
        return large ? step * ceil_div(distance, line) : -distance;
    }
    static FASTITER_INLINE void fetch_next(const T* A, int64_t ahead) {
#pragma GCC unroll 8
        for (int i = 0; i < K * parts; ++i) fetch(A + ahead + i * lanes<T>);
    }

    // Loads vector i of the matrix rows of `count` numbers, zero-filled beyond them.
    static FASTITER_INLINE vec<T> matrix(const T* A, int i, int64_t count) {
        if (count >= W) return load(A + i * lanes<T>);
        return load_up_to(A + i * lanes<T>, max_of(0, (count * K - i * W) * E));
    }
};

} // namespace fastiter::scan::FASTITER_LEVEL
