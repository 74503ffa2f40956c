// A matrix of packed weights and its memory.
#pragma once
#include "core/memory.hpp"
#include "decode/cpu/packed.hpp"
#include <cstdint>

namespace fastiter::decode {

// Codes and scales are those of fastiter.quant.encode: floats, the bits of bfloat16, int8 (int8 and int4) or uint8;
// scales are the bits of float16 (int8, int4, nf4), or codes in e8m0 (mxfp4, mxfp8) or e4m3 (nvfp4).
class PackedMatrix {
public:
    PackedMatrix(Weight format, int64_t N, int64_t K, int64_t group, float scale);

    const Packed& view() const { return view_; }
    int64_t bytes() const { return view_.tile_bytes * tiles() + view_.tile_scale_bytes * tiles(); }
    int64_t groups() const { return view_.group ? (view_.K + view_.group - 1) / view_.group : 0; }

    // Packs rows first to first + count - 1 of W from contiguous codes (count, K) and scales (count, groups).
    void pack_rows(int64_t first, int64_t count, const void* codes, const void* scales);
    // out (count, K) = rows first to first + count - 1 of W, in float; for f64 in double
    void unpack(int64_t first, int64_t count, void* out) const;
    // y (M, N) = x W^T, with the rows of x `stride` numbers apart; float, for f64 double
    void multiply(int64_t M, const void* x, int64_t stride, void* y) const;

private:
    int64_t tiles() const { return (view_.N + kTile - 1) / kTile; }

    Packed view_;
    Block<uint8_t> codes_, scales_;
};

} // namespace fastiter::decode
