// The product of packed weights with vectors, for any format. The lanes of a vector are outputs, and a number of x is
// multiplied by the weights of all lanes, so that there are no sums over lanes.
//
// A format is a struct: kInputs inputs of the 16 outputs of a tile are a line of kLineBytes; load(codes, part) reads a
// vector's part of a line, weight(line, j) decodes its input j, and scale(scales, part) the scales of a group. Groups
// are whole lines, but for the last one.
#pragma once
#include "core/cpu/simd.hpp"
#include "decode/cpu/packed.hpp"

FASTITER_FAMILY(decode)

namespace fastiter::decode::FASTITER_LEVEL {

#define FASTITER_UNROLL _Pragma("GCC unroll 8")

template <class T> constexpr int kParts = kTile / lanes<T>; // vectors of a tile's outputs

// Sums of a group that are independent of each other, and rows that share the decoding of weights: what the registers
// hold. Every number of rows has the same sums, for the same bits.
constexpr int kChains = kVectorBytes == 64 ? 4 : kVectorBytes == 32 ? 2 : 1;
constexpr int kRowsAtOnce = kVectorBytes == 64 ? 4 : 2;

constexpr int64_t kUnscaledGroup = 64; // formats without scales: inputs whose sum is rounded on its own

constexpr int64_t kAhead = 4096; // bytes from a read to its prefetch, across the end of a tile into the next one

// The inputs of a line times ROWS vectors, added to the sums of a group
template <class Format, int ROWS, class T>
FASTITER_INLINE void add_line(const uint8_t* codes, const T* x, int64_t x_stride,
                              vec<T> (&sums)[ROWS][kParts<T>][kChains]) {
    FASTITER_UNROLL
    for (int part = 0; part < kParts<T>; ++part) {
        const typename Format::Line line = Format::load(codes, part);
        FASTITER_UNROLL
        for (int j = 0; j < Format::kInputs; ++j) {
            const vec<T> weight = Format::weight(line, j);
            FASTITER_UNROLL
            for (int row = 0; row < ROWS; ++row) {
                vec<T>& sum = sums[row][part][j % kChains];
                sum = fma(broadcast(x[row * x_stride + j]), weight, sum);
            }
        }
    }
}

// The sum of `count` inputs of a group, the last ones of which need not be a whole line
template <class Format, int ROWS, bool WHOLE_LINES, class T>
FASTITER_INLINE void sum_group(const uint8_t* codes, const T* x, int64_t x_stride, int64_t count,
                               vec<T> (&totals)[ROWS][kParts<T>]) {
    constexpr int kInputs = Format::kInputs;
    vec<T> sums[ROWS][kParts<T>][kChains] = {};
    int64_t k = 0;
    for (; k + kInputs <= count; k += kInputs, codes += Format::kLineBytes) {
        prefetch(codes + kAhead, Format::kLineBytes);
        add_line<Format, ROWS>(codes, x + k, x_stride, sums);
    }
    if (!WHOLE_LINES && k < count) {
        T padded[ROWS][kInputs] = {};
        for (int row = 0; row < ROWS; ++row) {
            for (int64_t j = 0; k + j < count; ++j) padded[row][j] = x[row * x_stride + k + j];
        }
        add_line<Format, ROWS>(codes, padded[0], kInputs, sums);
    }
    FASTITER_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        FASTITER_UNROLL
        for (int part = 0; part < kParts<T>; ++part) {
            vec<T>(&chain)[kChains] = sums[row][part];
            if constexpr (kChains == 4)
                totals[row][part] = (chain[0] + chain[1]) + (chain[2] + chain[3]);
            else
                totals[row][part] = kChains == 2 ? chain[0] + chain[kChains - 1] : chain[0];
        }
    }
}

template <class Format, int ROWS, class T>
FASTITER_INLINE void multiply_tile(const Packed& w, int64_t tile, const T* x, int64_t x_stride, T* y,
                                   int64_t y_stride) {
    const uint8_t* codes = w.codes + tile * w.tile_bytes;
    const uint8_t* scales = w.scales + tile * w.tile_scale_bytes;
    const int64_t group = Format::kScaleBytes ? w.group : kUnscaledGroup;
    vec<T> totals[ROWS][kParts<T>] = {};
    const auto add = [&]<bool WHOLE_LINES>(int64_t k, int64_t count) {
        vec<T> sums[ROWS][kParts<T>];
        sum_group<Format, ROWS, WHOLE_LINES>(codes + k / Format::kInputs * Format::kLineBytes, x + k, x_stride, count,
                                             sums);
        prefetch(scales + kAhead / 4, Format::kScaleBytes);
        FASTITER_UNROLL
        for (int part = 0; part < kParts<T>; ++part) {
            FASTITER_UNROLL
            for (int row = 0; row < ROWS; ++row) {
                if constexpr (Format::kScaleBytes > 0)
                    totals[row][part] = fma(Format::scale(scales, part), sums[row][part], totals[row][part]);
                else
                    totals[row][part] += sums[row][part];
            }
        }
        scales += Format::kScaleBytes;
    };
    int64_t k = 0;
    for (; k + group <= w.K; k += group) add.template operator()<true>(k, group);
    if (k < w.K) add.template operator()<false>(k, w.K - k);
    const int64_t outputs = w.N - tile * kTile;
    for (int row = 0; row < ROWS; ++row) {
        for (int part = 0; part < kParts<T>; ++part) {
            const int64_t first = part * lanes<T>;
            if (first >= outputs) break;
            store_up_to(y + row * y_stride + first, totals[row][part] * T(w.scale * Format::kFactor), outputs - first);
        }
    }
}

template <class Format, class T>
void multiply(const Packed& w, Range tiles, int rows, const T* x, int64_t x_stride, T* y, int64_t y_stride) {
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, y += kTile) {
        int row = 0;
        const auto with = [&]<int ROWS>() {
            for (; row + ROWS <= rows; row += ROWS)
                multiply_tile<Format, ROWS>(w, tile, x + row * x_stride, x_stride, y + row * y_stride, y_stride);
        };
        if constexpr (kRowsAtOnce == 4) with.template operator()<4>();
        with.template operator()<2>();
        with.template operator()<1>();
    }
}

// The numbers of lane `lane` on, up to `count` of them, of a tile
template <class Format, class T>
FASTITER_INLINE void unpack_tile(const Packed& w, int64_t tile, int64_t lane, int64_t count, T* out, int64_t stride) {
    constexpr int kInputs = Format::kInputs;
    const uint8_t* codes = w.codes + tile * w.tile_bytes;
    const uint8_t* scales = w.scales + tile * w.tile_scale_bytes;
    for (int64_t k = 0; k < w.K; k += kInputs, codes += Format::kLineBytes) {
        alignas(64) T numbers[kInputs][kTile];
        for (int part = 0; part < kParts<T>; ++part) {
            const typename Format::Line line = Format::load(codes, part);
            for (int j = 0; j < kInputs; ++j) {
                vec<T> number = Format::weight(line, j);
                if constexpr (Format::kScaleBytes > 0)
                    number = number * Format::scale(scales + k / w.group * Format::kScaleBytes, part) *
                             (w.scale * Format::kFactor);
                store(&numbers[j][part * lanes<T>], number);
            }
        }
        const int64_t inputs = min_of(kInputs, w.K - k);
        for (int64_t i = 0; i < count; ++i) {
            for (int64_t j = 0; j < inputs; ++j) out[i * stride + k + j] = numbers[j][lane + i];
        }
    }
}

template <class Format, class T> void unpack(const Packed& w, Range outputs, T* out, int64_t stride) {
    for (int64_t i = outputs.begin; i < outputs.end;) {
        const int64_t tile = i / kTile, lane = i % kTile, count = min_of(kTile - lane, outputs.end - i);
        unpack_tile<Format>(w, tile, lane, count, out + (i - outputs.begin) * stride, stride);
        i += count;
    }
}

} // namespace fastiter::decode::FASTITER_LEVEL
