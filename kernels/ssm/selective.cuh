// The prefix of selective*.cu, after device.cuh: which states, channels and steps a lane has, and how it reads them.
//
// A warp has kChannels channels of a group in one sequence, and kLanes lanes for each, with PER states each: lane
// kChannels q + c has states q PER, ..., q PER + PER - 1 of channel c. All steps of the sequence run in this lane.
// Before a tile of STEPS steps, each of the lanes of a channel reads its signals at STEPS / kLanes consecutive steps,
// and copies of B and C, and puts what all lanes need into the warp's own shared memory: kernels need no barrier of a
// block for them.
//
// Defines: ELEMENT, the storage type of the signals: float, BFloat16 or Half; PER; RESET: 1 if the call has resets.
// B and C are float, (rows, groups, time, kLanes PER), padded with zeros. Steps outside of the sequence have d = 0, so
// that the state stays; their signals, B and C are not read. The state between steps, all sums, and what is saved is
// float. docs/gpu.md has the instructions per step.
#pragma once
using Element = ELEMENT;
using Rounding = Rounded<Element>;
using Byte = unsigned char;

constexpr int kLanes = 4, kChannels = 8, kWarps = 4, kStates = kLanes * PER, kSaved = 128;
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Consecutive numbers, read and written at once, up to 16 bytes by one instruction
template <class T, int K> struct alignas(sizeof(T) * K < 16 ? sizeof(T) * K : 16) Pack {
    T x[K];
};
template <int K, class T> INLINE Pack<T, K> read(const T* x) { return *reinterpret_cast<const Pack<T, K>*>(x); }
template <class T, int K> INLINE void write(T* to, const Pack<T, K>& x) { *reinterpret_cast<Pack<T, K>*>(to) = x; }
using States = Pack<float, PER>;

// e^-|x|, of which a number below 2^-126 is 0
INLINE float exp_minus_abs(float x) { return exp2_approx(-kLog2e * abs(x)); }
INLINE float sigmoid(float x) {
    const float e = exp_minus_abs(x);
    return __fdividef(x < 0 ? e : 1.0f, 1.0f + e);
}
// log(1 + e^x), and x itself above 20: with e = e^-|x|, log(1 + e) / e is a minimax polynomial, relative error 7e-8.
// slope: its derivative
INLINE float softplus_of(float x, float& slope) {
    const float e = exp_minus_abs(x);
    slope = x > 20 ? 1.0f : __fdividef(x < 0 ? e : 1.0f, 1.0f + e);
    float p = fma(e, 0.00523268792f, -0.0295052134f);
    p = fma(p, e, 0.0782259105f);
    p = fma(p, e, -0.136632423f);
    p = fma(p, e, 0.191060051f);
    p = fma(p, e, -0.248429818f);
    p = fma(p, e, 0.333190968f);
    p = fma(p, e, -0.499994931f);
    p = fma(p, e, 0.99999997f);
    return x > 20 ? x : fma(p, e, x < 0 ? 0.0f : x);
}

struct Sizes {
    const int64 *lengths, *starts; // one for each sequence, or null
    int64 channels, time;
    int32 groups, blocks, states;
};

// This lane's sequence, channel and states; row, start and end are those of the sequence, and steps are counted in its
// row. Tiles begin at multiples of 8.
struct Place {
    int32 sequence, row, group, block, first, own; // the channel is first, the block's, plus own
    int32 start, end, begin, high;                 // high: end, or 0 in a lane without a channel, which has no steps
    int32 q, c, warp, lane;
    bool is_here, is_any_here; // whether this lane, or another one of its warp, has a channel

    INLINE Place(const Sizes& sizes, int32 program) {
        block = program % sizes.blocks;
        group = program / sizes.blocks % sizes.groups;
        sequence = program / sizes.blocks / sizes.groups;
        warp = int32(threadIdx.x) / 32, lane = int32(threadIdx.x) % 32;
        q = lane / kChannels, c = lane % kChannels;
        const int32 width = int32(sizes.channels) / sizes.groups, before = block * kWarps * kChannels;
        first = group * width + before, own = warp * kChannels + c;
        is_here = before + own < width;
        is_any_here = before + warp * kChannels < width;
        row = sizes.starts ? 0 : sequence;
        start = sizes.starts ? int32(sizes.starts[sequence]) : 0;
        end = sizes.starts    ? int32(sizes.starts[sequence + 1])
              : sizes.lengths ? int32(sizes.lengths[sequence])
                              : int32(sizes.time);
        begin = start / 8 * 8;
        high = is_here ? end : 0;
    }
    INLINE int32 channel() const { return first + own; }
    INLINE bool has(int32 t) const { return t >= start && t < high; }
    template <int K> INLINE bool has_all(int32 t) const { return t >= start && t + K <= high; }

    // Where this lane's state n is in (sequences or lines, channels, states), and whether there is one
    INLINE int64 state(int64 line, const Sizes& sizes, int n) const {
        return (line * sizes.channels + first) * sizes.states + (own * sizes.states + q * PER + n);
    }
    INLINE bool has_state(const Sizes& sizes, int n) const { return is_here && q * PER + n < sizes.states; }
    INLINE void load(const float* x, int64 line, const Sizes& sizes, float (&to)[PER]) const {
#pragma unroll
        for (int n = 0; n < PER; ++n) to[n] = has_state(sizes, n) ? x[state(line, sizes, n)] : 0.0f;
    }
    INLINE void store(float* x, int64 line, const Sizes& sizes, const float (&from)[PER]) const {
#pragma unroll
        for (int n = 0; n < PER; ++n)
            if (has_state(sizes, n)) x[state(line, sizes, n)] = from[n];
    }
    // The first of the sequence's lines of saved states
    INLINE int64 line(const Sizes& sizes) const {
        return sizes.starts ? begin / kSaved + sequence : sequence * ((sizes.time + kSaved - 1) / kSaved);
    }
};

// A lane's line of a signal along time; null: absent
template <class T> struct Line {
    T* data;
    int64 step;
    INLINE Line(T* x, const Place& place, int64 row, int64 channel, int64 step)
        : data(x ? x + (place.row * row + place.channel() * channel) : nullptr), step(step) {}

    // Steps t, ..., t + K - 1; `whole`: all of them exist, contiguous and aligned
    template <int K> INLINE void load(const Place& place, int32 t, bool whole, Element (&to)[K]) const {
        if (whole) {
            const auto all = read<K>(data + t);
#pragma unroll
            for (int k = 0; k < K; ++k) to[k] = all.x[k];
        } else {
#pragma unroll
            for (int k = 0; k < K; ++k) to[k] = data && place.has(t + k) ? data[(t + k) * step] : Element{};
        }
    }
    template <int K> INLINE void store(const Place& place, int32 t, bool whole, const float (&from)[K]) const {
        Pack<Element, K> all;
#pragma unroll
        for (int k = 0; k < K; ++k) all.x[k] = Rounding::of(from[k]);
        if (whole) {
            write(data + t, all);
        } else {
#pragma unroll
            for (int k = 0; k < K; ++k)
                if (place.has(t + k)) data[(t + k) * step] = all.x[k];
        }
    }
};

// B or C of a sequence's group; a lane reads a part of one step of a tile
template <int STEPS> struct Weights {
    static constexpr int kParts = 32 / STEPS, kPart = kStates / kParts;
    using Part = Pack<float, kPart>;
    const float* data;
    INLINE Weights(const float* x, const Place& place, const Sizes& sizes)
        : data(x + (int64(place.row) * sizes.groups + place.group) * sizes.time * kStates) {}

    INLINE Part load(const Place& place, int32 t) const {
        const int32 own = t + place.lane / kParts;
        if (own < place.start || own >= place.end) return Part{};
        return read<kPart>(data + int64(own) * kStates + place.lane % kParts * kPart);
    }
    INLINE static void store(float (&to)[STEPS][kStates], const Place& place, const Part& part) {
        write(&to[place.lane / kParts][place.lane % kParts * kPart], part);
    }
};

// 1 for a step of a tile at which the state is reset first, of the lane with the number of the step
template <int STEPS> INLINE uint32 drop_of(const Byte* reset, int64 reset_row, const Place& place, int32 t) {
    const int32 own = t + place.lane;
    return place.lane < STEPS && own >= place.start && own < place.end && reset[place.row * reset_row + own];
}
