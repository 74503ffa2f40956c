// Weights of a layer in tiles of 16 outputs, in any of the formats below, and their products with 1 to 8 vectors.
#pragma once
#include "core/cpu/team.hpp"
#include "core/tables.hpp"
#include <cstdint>

namespace fastiter::decode {

enum class Weight : int32_t { f32, f64, bf16, int8, int4, nf4, mxfp4, mxfp8, nvfp4 };
constexpr const char* kWeightNames[] = {"f32", "f64", "bf16", "int8", "int4", "nf4", "mxfp4", "mxfp8", "nvfp4"};
constexpr int kWeights = sizeof(kWeightNames) / sizeof(kWeightNames[0]);

constexpr int kTile = 16;   // outputs of a tile, on every instruction set
constexpr int kMaxRows = 8; // vectors of one product

// A matrix W (N outputs, K inputs). Tile t has the outputs 16 t to 16 t + 15; those beyond N are 0. A number of W is
// value(code) * scale of its group of `group` inputs * `scale`; f32, f64 and bf16 have no scales.
struct Packed {
    Weight format = Weight::f32;
    int64_t N = 0, K = 0, group = 0;
    const uint8_t* codes = nullptr;  // the ones of tile t from codes + t tile_bytes on, a multiple of 64 bytes
    const uint8_t* scales = nullptr; // the ones of tile t from scales + t tile_scale_bytes on: 16 scales per group
    int64_t tile_bytes = 0, tile_scale_bytes = 0;
    float scale = 1;
};

// The kernels of a format. The outputs' results have the same bits for every range of them and every number of rows.
template <class T> struct PackedFormat {
    // y[row y_stride + i - 16 tiles.begin] = sum over k of W(i, k) x[row x_stride + k] for the outputs i < N of a range
    // of tiles, and for 1 to 8 rows
    void (*product)(const Packed& w, Range tiles, int rows, const T* x, int64_t x_stride, T* y, int64_t y_stride);
    // out[(i - outputs.begin) stride + k] = W(i, k) for a range of outputs
    void (*unpack)(const Packed& w, Range outputs, T* out, int64_t stride);
};

// double's kernels are those of f64, float's those of all other formats.
template <class T> struct PackedKernels {
    const PackedFormat<T>* formats[kWeights];
};
using PackedTable = ByType<PackedKernels<float>, PackedKernels<double>>;

FASTITER_TABLE(PackedTable, packed)

// The kernels of w's format from the table of an instruction set
template <class T>
__attribute__((always_inline)) inline const PackedFormat<T>& kernels_of(const PackedTable& table, const Packed& w) {
    return *table.of<PackedKernels<T>>().formats[int(w.format)];
}

} // namespace fastiter::decode
