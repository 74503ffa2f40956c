// The prefix of the kernels that run all steps in one launch, after products.cuh: a block's share of the units and of r,
// its products, and the exchange of vectors between the blocks of a head. docs/rnn/theory.md, "On a GPU", explains the
// division of work.
//
// A block computes UNITS units of a head for COLUMNS x 8 rows of the batch. Its rows of r are all gates of its units,
// or rows of r^T, in tiles of 16: the tiles are divided among ROW_WARPS warps, and the terms of the sums cyclically
// among SPLIT warps, 16 at a time. HELD of a warp's 16 x 16 tiles of r are in registers, the others in shared memory.
// JOINED: several blocks compute a head, exchange vectors through global memory and synchronise after every step, and a
// warp has TILES tiles of terms. TAGGED: they wait for the packets of a step, which carry its tag, instead of a barrier.
// CLUSTER: if more than 1, the number of blocks per head, which form a cluster and send each other their results. TF32:
// float32 products on tensor cores.
#pragma once
#ifdef UNITS
#ifndef TILES
#define TILES 1
#endif
#ifndef CLUSTER
#define CLUSTER 1
#endif
#ifndef TAGGED
#define TAGGED 0
#endif
#if CLUSTER > 1
#define IN_CLUSTER __cluster_dims__(CLUSTER, 1, 1)
#else
#define IN_CLUSTER
#endif
constexpr int kRows = 8 * COLUMNS, kThreads = 32 * ROW_WARPS * SPLIT;
constexpr int kEach = (UNITS * kRows + kThreads - 1) / kThreads; // elements per thread, each a unit of a row
constexpr int kArrivals = CLUSTER > 1 ? 16 : 0;                  // bytes of shared memory

// TAGGED: a packet of 8 places in the vectors has 7 units and a tag, which r multiplies by 0.
constexpr int kPacket = 8, kTag = kPacket - 1;
static_assert(!TAGGED || (JOINED && sizeof(Element) == 2 && UNITS % kPacket == 0));
INLINE int64 place_of(int64 unit) { return TAGGED ? unit / kTag * kPacket + unit % kTag : unit; }
INLINE int64 unit_at(int64 place) { // at a tag there is no unit
    return !TAGGED ? place : place % kPacket == kTag ? int64(1) << 32 : place / kPacket * kTag + place % kPacket;
}
// Not the tag of two steps before, and finite as a number
INLINE uint32 tag_of(int step) { return uint32(step / 2 + 1) & 0xff; }

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
    // kInLanes: a warp computes whole sums, and its rows of r are ordered so that the lane that computes an element has
    // its sums for all outs: none passes through shared memory. A lane has the sums of two rows of each tile, 8 apart;
    // kPaired: these are two outs out of 4, and it exchanges them with the lane that has the other two.
    static constexpr bool kPaired = OUTS == 4 && kTiles % 2 == 1;
    static constexpr bool kInLanes = kParts == 1 && (kPaired || 2 * kTiles % OUTS == 0);
    static constexpr int kOfWarp = 16 * kTiles / OUTS;            // in lanes: units of a warp,
    static constexpr int kUnits = (kOfWarp + 7) / 8;              // and of a lane, unless kPaired
    static constexpr int kNext = !kInLanes ? 1 : kPaired ? 8 : 4; // lanes from a unit to the next one
    static constexpr bool kOneUnit = kInLanes ? !kPaired && kUnits == 1 : kThreads % UNITS == 0; // a thread has one
    // Two buffers of vectors: a block of a cluster, or a warp with whole sums, may be a step ahead.
    static constexpr int kBuffers = CLUSTER > 1 || kInLanes ? 2 : 1;
    // Whole sums have many terms: they are added in several chains of products, as a product waits for the one before.
    static constexpr int kMost = 4 / (kTiles * COLUMNS), kOf4 = kTermsInRegisters / 4;
    static constexpr int kChains = !kInLanes || kMost <= 1 || kOf4 <= 1 ? 1 : kOf4 < kMost ? kOf4 : kMost;
    using Sums = Real[kTiles][COLUMNS][Product::sums];
    int64 n, unit0, row0;   // the head, the place of the first unit, and the first row
    int rows, steps, group; // number of valid rows; steps of the longest one; index of head and row tile
    int lane, tile0, split, tiles, terms, stride;
    Element* vectors;  // [kBuffers][kRows][stride]
    Real* partial;     // [kParts][kRows][kLine]
    Fragment* rest;    // per warp: [tiles kTiles - HELD][lane]
    Arrival* arrivals; // one for each buffer, if blocks send elements
    Fragment in_registers[HELD ? HELD : 1];

    // The position of a unit's term in the vectors; the parts of a cluster's blocks begin at multiples of 8 bytes.
    static INLINE int term(int g, int64 u, int64 width) { return int(g * pitch(width) + u); }
    static INLINE int64 pitch(int64 width) {
        return CLUSTER > 1 ? CLUSTER * UNITS : TAGGED ? (width + kTag - 1) / kTag * kPacket : width;
    }
    INLINE void set_up(const Shape& shape, int64 first_group, int blocks, int terms_of_sum) {
        SHARED_MEMORY(unsigned char, shared);
        terms = terms_of_sum;
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
        rest = reinterpret_cast<Fragment*>(partial + (kInLanes ? 0 : kParts * kRows * kLine)) +
               warp * (tiles * kTiles - HELD) * 32;
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
    struct Row {
        int out, unit;
    };
    INLINE Row row_of_tile(int i, int row) const {
        const int at = 16 * (tile0 + i) + row, first = tile0 / kTiles * kOfWarp, slot = 2 * i + row / 8;
        if (!kInLanes) return {at / UNITS, at % UNITS};
        if (kPaired) return {2 * (row % 2) + row / 8, first + 4 * i + row % 8 / 2};
        return {slot % OUTS, first + slot / OUTS * 8 + row % 8};
    }
    // r_at(out, unit, term) returns an element of r
    template <class F> INLINE void load(int64 width, F r_at) {
        auto fragment = [&](int tile, int i) {
            Fragment f;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const Row row = row_of_tile(i, Product::unit(lane, j));
                const int64 u = unit_at(unit0 + row.unit);
                const int k = 16 * (tile * SPLIT + split) + Product::term(lane, j);
                Product::put(f, j, u < width && k < terms ? r_at(row.out, u, k) : Rounding::of(0));
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
    INLINE int local(int e) const {
        if (!kInLanes) return (int(threadIdx.x) + e * kThreads) % UNITS;
        return tile0 / kTiles * kOfWarp + (kPaired ? 4 * (e % kTiles) + lane / 8 : 8 * (e / 2 % kUnits) + lane / 4);
    }
    INLINE int row_of(int e) const {
        if (!kInLanes) return (int(threadIdx.x) + e * kThreads) / UNITS;
        return 2 * (lane % 4) + (kPaired ? 8 * (e / kTiles) + lane / 4 % 2 : 8 * (e / 2 / kUnits) + e % 2);
    }
    INLINE int64 unit(int e) const { return unit_at(unit0 + local(e)); }
    INLINE bool has(int e, int64 width) const { return unit(e) < width && row_of(e) < rows; }

    INLINE void add_tile(Sums& sums, const Element* operands, const Fragment& r, int tile, int i) const {
        const Element* from = operands + 16 * (tile * SPLIT + split);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) Product::add(sums[i][j], r, from + 8 * j * stride, stride, lane);
    }
    INLINE Element* buffer(int step) const { return vectors + (step & (kBuffers - 1)) * kRows * stride; }
    // Multiplies r by the vectors of all rows. Sums are in lanes, or partial sums in shared memory, which `product`
    // adds up.
    INLINE void multiply(int step, Sums& sums) {
        const Element* const operands = buffer(step);
        Sums chains[kChains] = {};
#pragma unroll
        for (int tile = 0; tile < kTermsInRegisters; ++tile)
#pragma unroll
            for (int i = 0; i < kTiles; ++i)
                add_tile(chains[tile % kChains], operands,
                         tile * kTiles + i < HELD ? in_registers[tile * kTiles + i < HELD ? tile * kTiles + i : 0]
                                                  : from_shared(tile, i),
                         tile, i);
        for (int tile = kTermsInRegisters; tile < tiles; tile += kChains)
#pragma unroll
            for (int chain = 0; chain < kChains; ++chain)
                if (chain == 0 || tile + chain < tiles)
#pragma unroll
                    for (int i = 0; i < kTiles; ++i)
                        add_tile(chains[chain], operands, from_shared(tile + chain, i), tile + chain, i);
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
                for (int k = 0; k < Product::sums; ++k) {
                    sums[i][j][k] = chains[0][i][j][k];
#pragma unroll
                    for (int chain = 1; chain < kChains; ++chain) sums[i][j][k] += chains[chain][i][j][k];
                }
        if (kInLanes) return exchange_pairs(sums);
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
    // Before, lanes with an even row of a tile have outs 0 (sums 0 and 1) and 1 (sums 2 and 3) of two rows of the batch,
    // and lanes with an odd one outs 2 and 3; afterwards a lane has outs 0 to 3 of one of these rows.
    INLINE void exchange_pairs(Sums& sums) const {
        if (!kPaired) return;
        const bool odd = lane & 4;
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                Real(&x)[Product::sums] = sums[i][j];
                const Real own[] = {odd ? x[1] : x[0], odd ? x[3] : x[2]};
                const Real other[] = {from_lane_xor(odd ? x[0] : x[1], 4), from_lane_xor(odd ? x[2] : x[3], 4)};
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    x[k] = odd ? other[k] : own[k];
                    x[k + 2] = odd ? own[k] : other[k];
                }
            }
    }
    INLINE Real product(const Sums& sums, int out, int e) const {
        if (kPaired && kInLanes) return sums[e % kTiles][e / kTiles][out];
        const int slot = e / 2 % kUnits * OUTS + out;
        if (kInLanes) return sums[slot / 2 % kTiles][e / 2 / kUnits % COLUMNS][slot % 2 * 2 + e % 2];
        Real sum = 0;
#pragma unroll
        for (int part = 0; part < kParts; ++part)
            sum += partial[(part * kRows + row_of(e)) * kLine + out * UNITS + local(e)];
        return sum;
    }
    // Stores an element of the next vectors for this block, or for all blocks of the head. Two buffers alternate, as a
    // block may be a step ahead of one that is still reading.
    INLINE void put(Element* exchange, int step, int row, int term, Real x) {
        Element* to = JOINED ? exchange + ((step & 1) * kRows + row) * padded() : buffer(step + 1) + row * stride;
        to[term] = Rounding::of(x);
    }
    // Sends the values of an element to all blocks of the cluster, 8 bytes at a time: lanes that have adjacent units
    // combine their values, and each of these lanes sends to some of the blocks. All threads must call it.
    template <int numbers> INLINE void send_all(int step, int e, const Real (&x)[numbers]) {
        constexpr int together = int(8 / sizeof(Element));
        Bits bits[numbers];
        uint64 words[numbers];
#pragma unroll
        for (int g = 0; g < numbers; ++g) bits[g] = bits_of(Rounding::of(x[g]));
        put_together(bits, words);
        const int row = row_of(e), unit = int(unit0) + local(e) / together * together;
        if (row >= kRows) return;
        Element* const to = buffer(step + 1) + row * stride + unit;
#pragma unroll
        for (int g = 0; g < numbers; ++g)
#pragma unroll
            for (int i = 0; i < CLUSTER; i += together) {
                const int rank = i + lane / kNext % together;
                if (CLUSTER % together == 0 || rank < CLUSTER)
                    send(to + g * CLUSTER * UNITS, words[g], arrivals + (step + 1 & 1), rank);
            }
    }
    // Stores the values of an element for all blocks, in packets: lanes that have adjacent units combine their values,
    // and each of the first lanes stores one packet. All threads must call it.
    template <int numbers>
    INLINE void send_packets(Element* exchange, int step, int e, int64 pitch, const Real (&x)[numbers]) {
        static_assert(numbers <= kPacket && !(TAGGED && kInLanes && kPaired));
        const int part = lane / kNext % kPacket, at = int(unit0) + local(e) - part;
        Bits bits[numbers];
        uint64 words[numbers];
#pragma unroll
        for (int g = 0; g < numbers; ++g)
            bits[g] = part == kTag ? Bits(tag_of(step)) : Bits(bits_of(Rounding::of(x[g])));
        put_together(bits, words);
        Element* const to = exchange + ((step & 1) * kRows + row_of(e)) * padded() + at;
#pragma unroll
        for (int g = 0; g < numbers; ++g) {
            const uint64 other = from_lane_xor(words[g], 4 * kNext);
            const Wide packet = part < 4 ? Wide{{words[g], other}} : Wide{{other, words[g]}};
            if (part == g && at < pitch && row_of(e) < kRows)
                store_packet(reinterpret_cast<Wide*>(to + g * pitch), packet);
        }
    }
    using Bits = decltype(bits_of(Element()));
    template <int numbers> INLINE void put_together(Bits (&bits)[numbers], uint64 (&words)[numbers]) const {
        if (sizeof(Element) == 2)
#pragma unroll
            for (int g = 0; g < numbers; ++g) {
                const auto other = from_lane_xor(bits[g], kNext);
                bits[g] = lane & kNext ? other | bits[g] << 16 : bits[g] | other << 16;
            }
        const int by = sizeof(Element) == 2 ? 2 * kNext : kNext;
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
        if (JOINED && !TAGGED) grid_arrive(arrived + group);
    }
    INLINE void meet(const Element* exchange, uint32* arrived, int step, int blocks, int numbers) {
        if (CLUSTER > 1) { // the parity counts the uses of one of the two buffers
            Arrival* const own = arrivals + (step + 1 & 1);
            wait_for(own, uint32(step) >> 1 & 1);
            if (threadIdx.x == 0) expect(own, bytes_of(numbers));
            return; // safe: each warp has read its operands before it sends, and all values have arrived
        }
        if (JOINED) {
            if (!TAGGED) grid_wait(arrived + group, uint32(step + 1) * uint32(blocks));
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
                            const int all = TAGGED ? terms / wide : words;
                            if ((!TAGGED && words == 32 * of_row * at_once * turns) || at < all) act(r, i, row, at);
                        }
                }
            };
            const Element* from = exchange + (step & 1) * kRows * padded();
            for (int turn = 0; turn < turns; ++turn) {
                Wide word[of_warp][at_once];
                bool is_there = true;
                do {
                    each(turn, [&](int r, int i, int row, int at) {
                        const Wide* const x = reinterpret_cast<const Wide*>(from + row * padded()) + at;
                        word[r][i] = TAGGED ? load_packet(x) : load_shared_by_grid(x);
                    });
                    if (!TAGGED) break;
                    is_there = true;
                    each(turn, [&](int r, int i, int, int) {
                        is_there = is_there && uint32(word[r][i].x[1] >> 48) == tag_of(step);
                    });
                } while (!is_there);
                each(turn, [&](int r, int i, int row, int at) {
                    reinterpret_cast<Wide*>(buffer(step + 1) + row * stride)[at] = word[r][i];
                });
            }
        }
        block_barrier();
    }
};
#endif
