// The gradients of selective scans, from the last step to the first (docs/ssm/theory.md), in chunks of kSaved steps,
// which the forward pass has saved the states before. A chunk first runs forward for the states before its tiles of
// kSteps steps; then each tile, from the last, runs forward with all states and decays in registers, and backward.
//
// The sums over channels for dB and dC are in a fixed order: over the channels of a warp and the warps of a block here,
// and over the blocks in the caller.

constexpr int kSteps = 8, kOwn = kSteps / kLanes, kTiles = kSaved / kSteps;

// Shared memory of a warp; the paddings put what is read at once into different banks.
struct alignas(16) Shared {
    float inputs[kChannels][2 * kSteps + 4]; // d and d u of each step
    float dy[kChannels][kSteps + 4];
    float b[kSteps][kStates], c[kSteps][kStates];
    float products[kSteps][kLanes][(kChannels + 1) * PER]; // one for each lane, for dC and then for dB
    float sums[3][kLanes][32][kOwn]; // by steps, then by lane: those over its states for y, d u and d
    float before[kTiles][32][PER];   // the states before each tile
    uint32 drops[kSteps];
    float skip[kChannels], shift[kChannels]; // D and delta_bias
};
using OfBlock = float[2][kWarps][kSteps * kStates]; // the sums over a warp's channels, for dB and for dC

struct Inputs {
    Line<const Element> u, delta, z, dout;
    Weights<kSteps> b, c;
    const Byte* reset;
    int64 reset_row;
    bool softplus, wide;
};
struct Outputs {
    Line<Element> du, ddelta, dz;
    float *dB, *dC; // those that this block, row and group adds up
};

// The signals and weights that a lane reads before a tile
struct Tile {
    Element u[kOwn], delta[kOwn], z[kOwn], dout[kOwn];
    Weights<kSteps>::Part b, c;
    uint32 drop;
};

// This lane's steps of a tile: the derivative of d, and s(z)
struct OwnSteps {
    float slope[kOwn], s[kOwn];
};

struct Gradient {
    const Place& place;
    const Inputs& in;
    const Outputs& out;
    Shared& own;
    OfBlock& of_block;
    float a[PER], l[PER]; // A log2 e; the gradients of the states
    float da[PER] = {}, dskip = 0, dshift = 0;

    INLINE Tile load(int32 t) const {
        Tile tile;
        const int32 first = t + kOwn * place.q;
        const bool whole = in.wide && place.has_all<kOwn>(first);
        in.u.load(place, first, whole, tile.u);
        in.delta.load(place, first, whole, tile.delta);
        tile.b = in.b.load(place, t);
        tile.drop = RESET ? drop_of<kSteps>(in.reset, in.reset_row, place, t) : 0;
        return tile;
    }
    INLINE Tile load_all(int32 t) const {
        Tile tile = load(t);
        const int32 first = t + kOwn * place.q;
        const bool whole = in.wide && place.has_all<kOwn>(first);
        if (in.z.data) in.z.load(place, first, whole, tile.z);
        in.dout.load(place, first, whole, tile.dout);
        tile.c = in.c.load(place, t);
        return tile;
    }

    // Puts what the states need into shared memory.
    INLINE void put(const Tile& tile, int32 t, OwnSteps& steps) const {
        Pack<float, 2 * kOwn> inputs;
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
            const float raw = to_float(tile.delta[k]) + own.shift[place.c];
            const bool has = place.has(t + kOwn * place.q + k);
            float d = raw, slope = 1;
            if (in.softplus) d = softplus_of(raw, slope);
            steps.slope[k] = slope;
            inputs.x[2 * k] = has ? d : 0.0f;
            inputs.x[2 * k + 1] = inputs.x[2 * k] * to_float(tile.u[k]);
        }
        write(&own.inputs[place.c][2 * kOwn * place.q], inputs);
        in.b.store(own.b, place, tile.b);
        if (RESET && place.lane < kSteps) own.drops[place.lane] = tile.drop;
    }
    INLINE void put_all(const Tile& tile, int32 t, OwnSteps& steps) const {
        put(tile, t, steps);
        Pack<float, kOwn> dy;
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
            const float gate = in.z.data ? to_float(tile.z[k]) : 1.0f;
            steps.s[k] = in.z.data ? sigmoid(gate) : 1.0f;
            dy.x[k] = to_float(tile.dout[k]) * (gate * steps.s[k]);
        }
        write(&own.dy[place.c][kOwn * place.q], dy);
        in.c.store(own.c, place, tile.c);
    }

    // The states before each tile of a chunk
    INLINE void run_chunk(int32 t, int tiles, float (&h)[PER]) const {
        Tile next = load(t);
        for (int i = 0; i < tiles; ++i) {
            States now;
#pragma unroll
            for (int n = 0; n < PER; ++n) now.x[n] = h[n];
            write(own.before[i][place.lane], now);
            if (i == tiles - 1) break;
            OwnSteps steps;
            put(next, t + kSteps * i, steps);
            warp_barrier();
            next = load(t + kSteps * (i + 1));
#pragma unroll
            for (int k = 0; k < kSteps; ++k) {
                const auto input = read<2>(&own.inputs[place.c][2 * k]);
                const States b = read<PER>(&own.b[k][PER * place.q]);
                const bool drop = RESET && own.drops[k];
#pragma unroll
                for (int n = 0; n < PER; ++n)
                    h[n] = fma(exp2_approx(input.x[0] * a[n]), drop ? 0.0f : h[n], input.x[1] * b.x[n]);
            }
            warp_barrier();
        }
    }

    // The sum over the warp's channels of what its lanes have put into products, for step lane / kLanes and the states
    // of lane % kLanes
    INLINE void add_channels(float* to) const {
        warp_barrier();
        States sum{};
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
            const States one = read<PER>(&own.products[place.lane / kLanes][place.lane % kLanes][PER * c]);
#pragma unroll
            for (int n = 0; n < PER; ++n) sum.x[n] += one.x[n];
        }
        write(to + PER * place.lane, sum);
        warp_barrier();
    }
    INLINE void put_product(int k, const States& x) const { write(&own.products[k][place.q][PER * place.c], x); }

    // A tile's steps forward, then backward
    INLINE void run_tile(int i) {
        float after[kSteps - 1][PER], decay[kSteps][PER];
        forward(i, after, decay);
        add_channels(of_block[1][place.warp]);
        backward(i, after, decay);
        add_channels(of_block[0][place.warp]);
    }
    INLINE void forward(int i, float (&after)[kSteps - 1][PER], float (&decay)[kSteps][PER]) const {
        States h = read<PER>(own.before[i][place.lane]);
        Pack<float, kOwn> y;
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
            const auto input = read<2>(&own.inputs[place.c][2 * k]);
            const States b = read<PER>(&own.b[k][PER * place.q]);
            const bool drop = RESET && own.drops[k];
            const float dy = own.dy[place.c][k];
            States product;
#pragma unroll
            for (int n = 0; n < PER; ++n) {
                decay[k][n] = drop ? 0.0f : exp2_approx(input.x[0] * a[n]);
                h.x[n] = fma(decay[k][n], drop ? 0.0f : h.x[n], input.x[1] * b.x[n]);
                if (k < kSteps - 1) after[k][n] = h.x[n];
                product.x[n] = dy * h.x[n];
            }
            put_product(k, product);
            if (!in.z.data) continue;
            const States c = read<PER>(&own.c[k][PER * place.q]);
            float sum = 0;
#pragma unroll
            for (int n = 0; n < PER; ++n) sum = fma(c.x[n], h.x[n], sum);
            y.x[k % kOwn] = sum;
            if (k % kOwn == kOwn - 1) write(own.sums[0][k / kOwn][place.lane], y);
        }
    }
    INLINE void backward(int i, const float (&after)[kSteps - 1][PER], const float (&decay)[kSteps][PER]) {
        Pack<float, kOwn> dx, dd;
#pragma unroll
        for (int k = kSteps - 1; k >= 0; --k) {
            const auto input = read<2>(&own.inputs[place.c][2 * k]);
            const States b = read<PER>(&own.b[k][PER * place.q]), c = read<PER>(&own.c[k][PER * place.q]);
            const float dy = own.dy[place.c][k];
            const bool drop = RESET && own.drops[k];
            const States first = k > 0 ? States{} : read<PER>(own.before[i][place.lane]);
            float of_x = 0, of_d = 0;
            States product;
#pragma unroll
            for (int n = 0; n < PER; ++n) {
                l[n] = fma(c.x[n], dy, l[n]);
                product.x[n] = l[n] * input.x[1];
                of_x = fma(l[n], b.x[n], of_x);
                l[n] *= decay[k][n];
                const float w = l[n] * (drop ? 0.0f : k > 0 ? after[k - 1][n] : first.x[n]);
                da[n] = fma(w, input.x[0], da[n]);
                of_d = fma(w, a[n], of_d);
            }
            put_product(k, product);
            dx.x[k % kOwn] = of_x, dd.x[k % kOwn] = of_d;
            if (k % kOwn == 0) {
                write(own.sums[1][k / kOwn][place.lane], dx);
                write(own.sums[2][k / kOwn][place.lane], dd);
            }
        }
    }

    // The sum over a channel's lanes, for this lane's steps
    INLINE void add_lanes(int which, float (&to)[kOwn]) const {
#pragma unroll
        for (int k = 0; k < kOwn; ++k) to[k] = 0;
#pragma unroll
        for (int from = 0; from < kLanes; ++from) {
            const auto sums = read<kOwn>(own.sums[which][place.q][from * kChannels + place.c]);
#pragma unroll
            for (int k = 0; k < kOwn; ++k) to[k] += sums.x[k];
        }
    }
    INLINE void finish(const Tile& tile, const OwnSteps& steps, int32 t) {
        const int32 first = t + kOwn * place.q;
        const float skip = own.skip[place.c];
        float dx[kOwn], dd[kOwn], y[kOwn];
        add_lanes(1, dx);
        add_lanes(2, dd);
        if (in.z.data) add_lanes(0, y);
        const auto inputs = read<2 * kOwn>(&own.inputs[place.c][2 * kOwn * place.q]);
        const auto dy = read<kOwn>(&own.dy[place.c][kOwn * place.q]);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
            const float x = to_float(tile.u[k]);
            dd[k] = fma(x, dx[k], dd[k] * kLn2) * steps.slope[k];
            if (place.has(first + k)) dshift += dd[k];
            dskip = fma(dy.x[k], x, dskip);
            dx[k] = fma(inputs.x[2 * k], dx[k], skip * dy.x[k]);
            if (in.z.data) {
                const float gate = to_float(tile.z[k]), s = steps.s[k];
                y[k] = fma(skip, x, y[k]) * to_float(tile.dout[k]) * (s * fma(gate, 1 - s, 1.0f));
            }
        }
        const bool whole = in.wide && place.has_all<kOwn>(first);
        if (out.du.data) out.du.store(place, first, whole, dx);
        if (out.ddelta.data) out.ddelta.store(place, first, whole, dd);
        if (out.dz.data) out.dz.store(place, first, whole, y);
    }
    // The sums over the block's channels
    INLINE void store_projections(int32 t) const {
        constexpr uint32 kAll = kSteps * kStates, kPiece = PER > 1 ? PER / 2 : 1;
        using Piece = Pack<float, kPiece>;
        const uint32 first = threadIdx.x * kPiece, which = first / kAll, at = first % kAll;
        const int32 step = t + int32(at / kStates);
        float* const to = which ? out.dC : out.dB;
        block_barrier();
        if (which < 2 && to && step >= place.start && step < place.end) {
            Piece sum = read<kPiece>(&of_block[which][0][at]);
#pragma unroll
            for (int warp = 1; warp < kWarps; ++warp) {
                const Piece one = read<kPiece>(&of_block[which][warp][at]);
#pragma unroll
                for (uint32 n = 0; n < kPiece; ++n) sum.x[n] += one.x[n];
            }
            write(to + int64(step) * kStates + at % kStates, sum);
        }
        block_barrier();
    }
    INLINE void chunk(int32 t, int tiles, float (&h)[PER]) {
        run_chunk(t, tiles, h);
        Tile next = load_all(t + kSteps * (tiles - 1));
        for (int i = tiles - 1; i >= 0; --i) {
            const Tile tile = next;
            const int32 first = t + kSteps * i;
            OwnSteps steps;
            put_all(tile, first, steps);
            warp_barrier();
            if (i > 0) next = load_all(first - kSteps);
            run_tile(i);
            finish(tile, steps, first);
            store_projections(first);
        }
    }
};

// states: those before every kSaved steps; carry: the gradients of the last states on entry, then those of the first
// ones; dA: (S, D, N), dD, dbias: (S, D), dB, dC: (blocks, rows, groups, time, kStates), sums for each sequence or
// block. z, D, bias, the gradients except carry, reset, lengths and starts may be null.
KERNEL __launch_bounds__(kWarps * 32, 2)
    selective_bwd(const Element* u, const Element* delta, const float* A, const float* B, const float* C,
                  const float* D, const Element* z, const float* bias, const float* states, const Element* dout,
                  Element* du, Element* ddelta, Element* dz, float* carry, float* dA, float* dB, float* dC, float* dD,
                  float* dbias, const Byte* reset, const int64* lengths, const int64* starts, int64 u_row,
                  int64 u_channel, int64 u_time, int64 delta_row, int64 delta_channel, int64 delta_time, int64 z_row,
                  int64 z_channel, int64 z_time, int64 dout_row, int64 dout_channel, int64 dout_time, int64 du_row,
                  int64 du_channel, int64 du_time, int64 ddelta_row, int64 ddelta_channel, int64 ddelta_time,
                  int64 dz_row, int64 dz_channel, int64 dz_time, int64 reset_row, int64 channels, int64 time,
                  int32 groups, int32 blocks, int32 rows, int32 count, int32 softplus, int32 wide) {
    SHARED_MEMORY(Shared, memory);
    const Sizes sizes{lengths, starts, channels, time, groups, blocks, count};
    const Place place(sizes, int32(blockIdx.x));
    if (place.q == 0) {
        memory[place.warp].skip[place.c] = D && place.is_here ? D[place.channel()] : 0.0f;
        memory[place.warp].shift[place.c] = bias && place.is_here ? bias[place.channel()] : 0.0f;
    }
    warp_barrier();
    const Inputs in{{u, place, u_row, u_channel, u_time},
                    {delta, place, delta_row, delta_channel, delta_time},
                    {z, place, z_row, z_channel, z_time},
                    {dout, place, dout_row, dout_channel, dout_time},
                    {B, place, sizes},
                    {C, place, sizes},
                    reset,
                    reset_row,
                    softplus != 0,
                    wide != 0};
    const int64 partial = ((int64(place.block) * rows + place.row) * groups + place.group) * time * kStates;
    const Outputs out{{du, place, du_row, du_channel, du_time},
                      {ddelta, place, ddelta_row, ddelta_channel, ddelta_time},
                      {dz, place, dz_row, dz_channel, dz_time},
                      dB ? dB + partial : nullptr,
                      dC ? dC + partial : nullptr};
    Gradient gradient{place, in, out, memory[place.warp], *reinterpret_cast<OfBlock*>(memory + kWarps)};
    place.load(A, 0, sizes, gradient.a);
    place.load(carry, place.sequence, sizes, gradient.l);
#pragma unroll
    for (int n = 0; n < PER; ++n) gradient.a[n] *= kLog2e;
    const int32 steps = place.end - place.begin;
    for (int32 chunk = (steps + kSaved - 1) / kSaved - 1; chunk >= 0; --chunk) {
        float h[PER];
        place.load(states, place.line(sizes) + chunk, sizes, h);
        const int32 left = min(steps - chunk * kSaved, kSaved);
        gradient.chunk(place.begin + chunk * kSaved, (left + kSteps - 1) / kSteps, h);
    }
    place.store(carry, place.sequence, sizes, gradient.l);
    if (dA) place.store(dA, place.sequence, sizes, gradient.da);
    for (int by = kChannels; by < 32; by *= 2) {
        gradient.dskip += from_lane_xor(gradient.dskip, by);
        gradient.dshift += from_lane_xor(gradient.dshift, by);
    }
    if (place.q > 0 || !place.is_here) return;
    if (dD) dD[int64(place.sequence) * channels + place.channel()] = gradient.dskip;
    if (dbias) dbias[int64(place.sequence) * channels + place.channel()] = gradient.dshift;
}
