// The prefix of the kernels that run all steps in one launch, after cells.cuh: a block's share of the units and of r,
// its products, and the exchange of vectors between the blocks of a head. docs/rnn/theory.md, "On a GPU", explains the
// division of work.
//
// A block computes UNITS units of a head for COLUMNS x 8 rows of the batch. Its rows of r are all gates of its units,
// or rows of r^T, in tiles of 16: the tiles are divided among ROW_WARPS warps, and the terms of the sums cyclically
// among SPLIT warps, 16 at a time. HELD of a warp's 16 x 16 tiles of r are in registers, the others in shared memory.
// JOINED: several blocks compute a head, exchange vectors through global memory and synchronise after every step, and a
// warp has TILES tiles of terms. CLUSTER: if more than 1, the number of blocks per head, which form a cluster and send
// each other their results. TF32: float32 products on tensor cores.
#pragma once
#ifdef UNITS
#ifndef TILES
#define TILES 1
#endif
#ifndef CLUSTER
#define CLUSTER 1
#endif
#if CLUSTER > 1
#define IN_CLUSTER __cluster_dims__(CLUSTER, 1, 1)
#else
#define IN_CLUSTER
#endif
constexpr int kRows = 8 * COLUMNS, kThreads = 32 * ROW_WARPS * SPLIT;
constexpr int kEach = (UNITS * kRows + kThreads - 1) / kThreads; // elements per thread, each a unit of a row
constexpr bool kOneUnit = kThreads % UNITS == 0;                 // all elements of a thread belong to one unit
constexpr int kBuffers = CLUSTER > 1 ? 2 : 1;                    // a block of a cluster may be a step ahead
constexpr int kArrivals = CLUSTER > 1 ? 16 : 0;                  // bytes of shared memory

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
using Product = ProductOf<Element, TF32>::Type;
using Fragment = Product::Fragment;
constexpr int kParts = SPLIT * Product::parts;

// ---- A block's share of the recurrence: its units, its rows, its part of r, and its copy of the operand vectors -----

template <int OUTS> struct Share {
    static constexpr int kTiles = OUTS * UNITS / (16 * ROW_WARPS); // tiles of r per warp, along the rows
    static constexpr int kTermsInRegisters =
        (HELD + kTiles - 1) / kTiles;              // tiles of terms that have tiles of r in registers
    static constexpr int kLine = OUTS * UNITS + 4; // + 4: no bank conflicts in column writes
    static_assert(kTiles * 16 * ROW_WARPS == OUTS * UNITS, "warps share tiles of 16 rows of r");
    int64 n, unit0, row0;   // the head, the first unit and the first row
    int rows, steps, group; // number of valid rows; steps of the longest one; index of head and row tile
    int lane, tile0, split, tiles, stride;
    Element* vectors;  // [kBuffers][kRows][stride]
    Real* partial;     // [kParts][kRows][kLine]
    Fragment* rest;    // per warp: [tiles kTiles - HELD][lane]
    Arrival* arrivals; // one for each buffer, if blocks send elements
    Fragment in_registers[HELD ? HELD : 1];

    // The position of a unit's term in the vectors; the parts of a cluster's blocks begin at multiples of 8 bytes.
    static INLINE int term(int g, int64 u, int64 width) { return int(g * pitch(width) + u); }
    static INLINE int64 pitch(int64 width) { return CLUSTER > 1 ? CLUSTER * UNITS : width; }
    INLINE void set_up(const Shape& shape, int64 first_group, int blocks, int terms) {
        SHARED_MEMORY(unsigned char, shared);
        const int warp = int(threadIdx.x) / 32;
        group = int(first_group) + int(blockIdx.x) / blocks;
        n = group % shape.heads;
        row0 = group / shape.heads * kRows;
        unit0 = int(blockIdx.x) % blocks * int64(UNITS);
        rows = int(min(int64(kRows), shape.batch - row0));
        lane = int(threadIdx.x) % 32;
        split = warp / ROW_WARPS;
        tile0 = warp % ROW_WARPS * kTiles;
        tiles = (terms + 16 * SPLIT - 1) / (16 * SPLIT);
        stride = (padded() + 63) / 64 * 64 + 16;
        vectors = reinterpret_cast<Element*>(shared + kArrivals);
        partial = reinterpret_cast<Real*>(vectors + kBuffers * kRows * stride);
        arrivals = reinterpret_cast<Arrival*>(shared);
        rest = reinterpret_cast<Fragment*>(partial + kParts * kRows * kLine) + warp * (tiles * kTiles - HELD) * 32;
        int64 longest = 0;
        for (int m = 0; m < rows; ++m) longest = max(longest, shape.length(row0 + m));
        steps = int(longest);
        for (int i = int(threadIdx.x); i < kBuffers * kRows * stride; i += kThreads) vectors[i] = Rounding::of(0);
        block_barrier();
    }
    // Ends the preparation, in all blocks of a cluster. Every block of it sends `numbers` values per unit and row.
    INLINE void ready(int numbers) {
        if (CLUSTER == 1) return block_barrier();
        if (threadIdx.x == 0)
            for (int i = 0; i < kBuffers; ++i) {
                begin(arrivals + i);
                expect(arrivals + i, bytes_of(numbers));
            }
        cluster_barrier();
    }
    static INLINE uint32 bytes_of(int numbers) {
        return uint32(CLUSTER * UNITS * kRows * numbers) * uint32(sizeof(Element));
    }
    // r_at(out, unit, term) returns an element of r
    template <class F> INLINE void load(int64 width, int terms, F r_at) {
        auto fragment = [&](int tile, int i) {
            Fragment f;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const int row = 16 * (tile0 + i) + Product::unit(lane, j), out = row / UNITS;
                const int64 u = unit0 + row % UNITS;
                const int k = 16 * (tile * SPLIT + split) + Product::term(lane, j);
                Product::put(f, j, u < width && k < terms ? r_at(out, u, k) : Rounding::of(0));
            }
            return f;
        };
#pragma unroll
        for (int i = 0; i < kTiles; ++i) { // tiles of the same rows of r together, for fewer live addresses
#pragma unroll
            for (int at = i; at < HELD; at += kTiles) in_registers[at] = fragment(at / kTiles, i);
            warp_barrier();
        }
        for (int i = HELD; i < tiles * kTiles; ++i) rest[(i - HELD) * 32 + lane] = fragment(i / kTiles, i % kTiles);
    }
    INLINE int padded() const { return 16 * SPLIT * tiles; }
    INLINE int local(int e) const { return (int(threadIdx.x) + e * kThreads) % UNITS; }
    INLINE int row_of(int e) const { return (int(threadIdx.x) + e * kThreads) / UNITS; }
    INLINE int64 unit(int e) const { return unit0 + local(e); }
    INLINE bool has(int e, int64 width) const { return unit(e) < width && row_of(e) < rows; }

    using Sums = Real[kTiles][COLUMNS][Product::sums];
    INLINE void add_tile(Sums& sums, const Element* operands, const Fragment& r, int tile, int i) const {
        const Element* from = operands + 16 * (tile * SPLIT + split);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) Product::add(sums[i][j], r, from + 8 * j * stride, stride, lane);
    }
    INLINE Element* buffer(int step) const { return vectors + (step & (kBuffers - 1)) * kRows * stride; }
    // Multiplies r by the vectors of all rows; writes partial sums, which `product` adds up.
    INLINE void multiply(int step) {
        const Element* const operands = buffer(step);
        Sums sums = {};
#pragma unroll
        for (int tile = 0; tile < kTermsInRegisters; ++tile)
#pragma unroll
            for (int i = 0; i < kTiles; ++i)
                add_tile(sums, operands,
                         tile * kTiles + i < HELD ? in_registers[tile * kTiles + i < HELD ? tile * kTiles + i : 0]
                                                  : from_shared(tile, i),
                         tile, i);
        for (int tile = kTermsInRegisters; tile < tiles; ++tile)
#pragma unroll
            for (int i = 0; i < kTiles; ++i) add_tile(sums, operands, from_shared(tile, i), tile, i);
        const int part = split * Product::parts + Product::part(lane);
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
                for (int k = 0; k < Product::sums; ++k) {
                    const int row = 8 * j + Product::row_of_sum(lane, k);
                    partial[(part * kRows + row) * kLine + 16 * (tile0 + i) + Product::unit_of_sum(lane, k)] =
                        sums[i][j][k];
                }
        block_barrier();
    }
    INLINE Fragment from_shared(int tile, int i) const { return rest[(tile * kTiles + i - HELD) * 32 + lane]; }
    INLINE Real product(int out, int e) const {
        Real sum = 0;
#pragma unroll
        for (int part = 0; part < kParts; ++part)
            sum += partial[(part * kRows + row_of(e)) * kLine + out * UNITS + local(e)];
        return sum;
    }
    // Stores an element of the next vectors for this block, or for all blocks of the head. Two buffers alternate, as a
    // block may be a step ahead of one that is still reading.
    INLINE void put(Element* exchange, int step, int row, int term, Real x) {
        Element* to = JOINED ? exchange + ((step & 1) * kRows + row) * padded() : vectors + row * stride;
        to[term] = Rounding::of(x);
    }
    // Sends the values of an element to all blocks of the cluster, 8 bytes at a time: adjacent lanes, which have
    // adjacent units, combine their values, and each of these lanes sends to some of the blocks. All threads must call
    // it.
    template <int numbers> INLINE void send_all(int step, int e, const Real (&x)[numbers]) {
        constexpr int together = int(8 / sizeof(Element));
        uint64 words[numbers];
        put_together(x, words);
        const int row = row_of(e), unit = int(unit0) + local(e) / together * together;
        if (row >= kRows) return;
        Element* const to = buffer(step + 1) + row * stride + unit;
#pragma unroll
        for (int g = 0; g < numbers; ++g)
#pragma unroll
            for (int i = 0; i < CLUSTER; i += together) {
                const int rank = i + lane % together;
                if (CLUSTER % together == 0 || rank < CLUSTER)
                    send(to + g * CLUSTER * UNITS, words[g], arrivals + (step + 1 & 1), rank);
            }
    }
    template <int numbers> INLINE void put_together(const Real (&x)[numbers], uint64 (&words)[numbers]) const {
        decltype(bits_of(Element())) bits[numbers];
#pragma unroll
        for (int g = 0; g < numbers; ++g) bits[g] = bits_of(Rounding::of(x[g]));
        if (sizeof(Element) == 2)
#pragma unroll
            for (int g = 0; g < numbers; ++g) {
                const auto other = from_lane_xor(bits[g], 1);
                bits[g] = lane & 1 ? other | bits[g] << 16 : bits[g] | other << 16;
            }
        const int by = sizeof(Element) == 2 ? 2 : 1;
#pragma unroll
        for (int g = 0; g < numbers; ++g) {
            words[g] = bits[g];
            if (sizeof(Element) == 8) continue;
            const uint64 other = from_lane_xor(bits[g], by);
            words[g] = lane & by ? words[g] << 32 | other : other << 32 | words[g];
        }
    }
    // Signals to the other blocks of the head that this block's part is available; `meet` waits for their parts and
    // copies them.
    INLINE void arrive(uint32* arrived) const {
        if (JOINED) grid_arrive(arrived + group);
    }
    INLINE void meet(const Element* exchange, uint32* arrived, int step, int blocks, int numbers) {
        if (CLUSTER > 1) { // the parity counts the uses of one of the two buffers
            Arrival* const own = arrivals + (step + 1 & 1);
            wait_for(own, uint32(step) >> 1 & 1);
            if (threadIdx.x == 0) expect(own, bytes_of(numbers));
            return; // safe: each thread read its sums before it sent its values, and all values have arrived
        }
        if (JOINED) {
            grid_wait(arrived + group, uint32(step + 1) * uint32(blocks));
            // A row is copied by one or several warps, or a warp copies several rows; a lane has about 8 loads in
            // flight.
            constexpr int wide = sizeof(Wide) / sizeof(Element), warps = kThreads / 32,
                          words = 16 * SPLIT * TILES / wide;
            constexpr int of_warp = (kRows + warps - 1) / warps, of_row = warps > kRows ? warps / kRows : 1;
            constexpr int of_lane = (words + 32 * of_row - 1) / (32 * of_row), turns = (of_warp * of_lane + 7) / 8;
            constexpr int at_once = (of_lane + turns - 1) / turns;
            const int warp = int(threadIdx.x) / 32, begin = 32 * (warp / kRows) + lane;
            const auto each = [&](int turn, auto act) {
#pragma unroll
                for (int r = 0; r < of_warp; ++r) {
                    const int row = warp % kRows + r * warps;
                    if (row < rows && warp < kRows * of_row) // otherwise idle
#pragma unroll
                        for (int i = 0; i < at_once; ++i) {
                            const int at = begin + 32 * of_row * (turn * at_once + i);
                            if (words == 32 * of_row * at_once * turns || at < words) act(r, i, row, at);
                        }
                }
            };
            const Element* from = exchange + (step & 1) * kRows * padded();
            for (int turn = 0; turn < turns; ++turn) {
                Wide word[of_warp][at_once];
                each(turn, [&](int r, int i, int row, int at) {
                    word[r][i] = load_shared_by_grid(reinterpret_cast<const Wide*>(from + row * padded()) + at);
                });
                each(turn, [&](int r, int i, int row, int at) {
                    reinterpret_cast<Wide*>(vectors + row * stride)[at] = word[r][i];
                });
            }
        }
        block_barrier();
    }
};
#endif
