// The formats of packed weights.
#include "decode/cpu/packed.hpp"
#include "decode/cpu/packed/product.hpp"
#include "decode/cpu/packed/scales.hpp"

namespace fastiter::decode::FASTITER_LEVEL {

// 16 numbers per input
template <class T> struct Plain : Unscaled {
    static constexpr int kInputs = 4, kLineBytes = kInputs * kTile * int(sizeof(T));
    using Line = const T*;
    static FASTITER_INLINE Line load(const uint8_t* codes, int part) {
        return reinterpret_cast<const T*>(codes) + part * lanes<T>;
    }
    static FASTITER_INLINE vec<T> weight(Line line, int j) { return FASTITER_LEVEL::load(line + j * kTile); }
};

// Two inputs in each lane's word, the first one in the lower half
struct Bfloat16 : Unscaled {
    static constexpr int kInputs = 4, kLineBytes = kInputs * kTile * 2;
    using Line = const uint32_t*;
    static FASTITER_INLINE Line load(const uint8_t* codes, int part) {
        return reinterpret_cast<const uint32_t*>(codes) + part * lanes<float>;
    }
    static FASTITER_INLINE vec<float> weight(Line line, int j) {
        const words pair = load_words(line + j / 2 * kTile);
        return (vec<float>)(j % 2 == 0 ? pair << 16 : pair & 0xffff0000);
    }
};

// A byte per input and output
struct Bytes {
    static constexpr int kInputs = 4, kLineBytes = kInputs * kTile;
    using Line = const uint8_t*;
    static FASTITER_INLINE Line load(const uint8_t* codes, int part) { return codes + part * lanes<float>; }
};

struct Int8 : Bytes, ScaledByF16 {
    static FASTITER_INLINE vec<float> weight(Line line, int j) { return to_float(widen_bytes(line + j * kTile)); }
};

struct Mxfp8 : Bytes, ScaledByPower<8> {
    static FASTITER_INLINE vec<float> weight(Line line, int j) { return e4m3(line + j * kTile); }
};

struct Int4 : Nibbles, ScaledByF16 {
    static FASTITER_INLINE vec<float> weight(words line, int j) { return int4(line, j); }
};

struct Nf4 : Nibbles, ScaledByF16 {
    static FASTITER_INLINE vec<float> weight(words line, int j) { return look_up(kNf4Values, line, j); }
};

struct Mxfp4 : Nibbles, ScaledByPower<0> {
    static FASTITER_INLINE vec<float> weight(words line, int j) { return look_up(kE2m1Values, line, j); }
};

struct Nvfp4 : Nibbles, ScaledByE4m3 {
    static FASTITER_INLINE vec<float> weight(words line, int j) { return look_up(kE2m1Values, line, j); }
};

template <class Format, class T> constexpr PackedFormat<T> kFormat = {multiply<Format, T>, unpack<Format, T>};

// In the order of Weight
const PackedTable packed = {{&kFormat<Plain<float>, float>, nullptr, &kFormat<Bfloat16, float>, &kFormat<Int8, float>,
                             &kFormat<Int4, float>, &kFormat<Nf4, float>, &kFormat<Mxfp4, float>,
                             &kFormat<Mxfp8, float>, &kFormat<Nvfp4, float>},
                            {nullptr, &kFormat<Plain<double>, double>}};

} // namespace fastiter::decode::FASTITER_LEVEL
