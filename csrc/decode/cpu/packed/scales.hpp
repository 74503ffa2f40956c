// The scales of groups: 16 per group and tile. A format's scale is that number times kFactor.
#pragma once
#include "decode/cpu/packed.hpp"
#include "decode/cpu/packed/codes.hpp"

namespace fastiter::decode::FASTITER_LEVEL {

struct Unscaled {
    static constexpr int kScaleBytes = 0;
    static constexpr float kFactor = 1;
};

struct ScaledByF16 {
    static constexpr int kScaleBytes = 2 * kTile;
    static constexpr float kFactor = 1;
    static FASTITER_INLINE vec<float> scale(const uint8_t* scales, int part) {
        return load(reinterpret_cast<const f16*>(scales) + part * lanes<float>);
    }
};

// Powers of two in e8m0, times 2^SHIFT; 2^-127 is a subnormal number.
template <int SHIFT> struct ScaledByPower {
    static constexpr int kScaleBytes = kTile;
    static constexpr float kFactor = 1;
    static FASTITER_INLINE vec<float> scale(const uint8_t* scales, int part) {
        const vec<int32_t> exponent = (widen_bytes(scales + part * lanes<float>) & 0xff) + SHIFT, bits = exponent << 23;
        return (vec<float>)(SHIFT > 0 ? bits : larger<int32_t>(bits, splat<int32_t>(1 << 22)));
    }
};

struct ScaledByE4m3 {
    static constexpr int kScaleBytes = kTile;
    static constexpr float kFactor = kE4m3Factor;
    static FASTITER_INLINE vec<float> scale(const uint8_t* scales, int part) {
        return e4m3(scales + part * lanes<float>);
    }
};

} // namespace fastiter::decode::FASTITER_LEVEL
