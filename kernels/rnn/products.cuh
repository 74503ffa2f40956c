// The prefix of the kernels of this folder that hold r in tiles, after cells.cuh: products of a warp with a tile of r, on
// tensor cores or exactly.
#pragma once

// ---- Products of a warp: 16 units by 8 rows over a tile of 16 terms -------------------------------------------------
// Each lane holds 8 of the 256 elements of a tile of r, in the layout of the tensor cores: unit(lane, j) and
// term(lane, j) are the position of the j-th. The terms of a tile are ordered so that a lane's elements of h are
// contiguous.

template <class Word, int count> struct alignas(16) Words {
    Word x[count];
};

template <class E> struct HalfProduct {
    using Fragment = Words<uint32, 4>;
    static constexpr int sums = 4, parts = 1;
    static INLINE int unit(int lane, int j) { return lane / 4 + 8 * (j / 2 % 2); }
    static INLINE int term(int lane, int j) { return 4 * (lane % 4) + 2 * (j / 4) + j % 2; }
    static INLINE void put(Fragment& r, int j, E x) {
        r.x[j / 2] = j % 2 ? r.x[j / 2] | uint32(x.bits) << 16 : uint32(x.bits);
    }
    static INLINE void add(float (&sum)[sums], const Fragment& r, const E* h, int stride, int lane) {
        const uint32* pair = reinterpret_cast<const uint32*>(h + lane / 4 * stride + 4 * (lane % 4));
        mma_16x8x16(sum, r.x, {pair[0], pair[1]}, E());
    }
    static INLINE int unit_of_sum(int lane, int i) { return lane / 4 + 8 * (i / 2); }
    static INLINE int row_of_sum(int lane, int i) { return 2 * (lane % 4) + i % 2; }
    static INLINE int part(int) { return 0; }
};

struct Tf32Product : HalfProduct<Half> {
    using Fragment = Words<float, 8>;
    static INLINE int unit(int lane, int j) { return lane / 4 + 8 * (j % 2); }
    static INLINE int term(int lane, int j) { return 4 * (lane % 4) + 2 * (j / 4) + j % 4 / 2; }
    static INLINE void put(Fragment& r, int j, float x) { r.x[j] = x; }
    static INLINE void add(float (&sum)[sums], const Fragment& r, const float* h, int stride, int lane) {
        const Words<float, 4> y = *reinterpret_cast<const Words<float, 4>*>(h + lane / 4 * stride + 4 * (lane % 4));
        mma_16x8x8_tf32(sum, {r.x[0], r.x[1], r.x[2], r.x[3]}, {y.x[0], y.x[1]});
        mma_16x8x8_tf32(sum, {r.x[4], r.x[5], r.x[6], r.x[7]}, {y.x[2], y.x[3]});
    }
};

template <class E> struct ExactProduct { // one half of a warp computes the first 8 terms, the other half the last 8
    using Fragment = Words<E, 8>;
    static constexpr int sums = 8, parts = 2, wide = 16 / sizeof(E);
    static INLINE int unit(int lane, int) { return lane % 16; }
    static INLINE int term(int lane, int j) { return 8 * (lane / 16) + j; }
    static INLINE void put(Fragment& r, int j, E x) { r.x[j] = x; }
    static INLINE void add(E (&sum)[sums], const Fragment& r, const E* h, int stride, int lane) {
#pragma unroll
        for (int row = 0; row < sums; ++row)
#pragma unroll
            for (int j = 0; j < 8; j += wide) {
                using Line = Words<E, wide>;
                const Line y = *reinterpret_cast<const Line*>(h + row * stride + 8 * (lane / 16) + j);
#pragma unroll
                for (int k = 0; k < wide; ++k) sum[row] = fma(r.x[j + k], y.x[k], sum[row]);
            }
    }
    static INLINE int unit_of_sum(int lane, int) { return lane % 16; }
    static INLINE int row_of_sum(int, int i) { return i; }
    static INLINE int part(int lane) { return lane / 16; }
};

template <class E, bool tf32> struct ProductOf {
    using Type = ExactProduct<E>;
};
template <> struct ProductOf<float, true> {
    using Type = Tf32Product;
};
template <> struct ProductOf<BFloat16, false> {
    using Type = HalfProduct<BFloat16>;
};
template <> struct ProductOf<Half, false> {
    using Type = HalfProduct<Half>;
};
