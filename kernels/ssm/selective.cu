// Selective scans h[t] = exp(d[t] A) h[t-1] + d[t] B[t] u[t], y[t] = C[t] h[t] + D u[t], out = y z s(z), forward: one
// launch for all steps, with the states in registers.

constexpr int kSteps = 16, kOwn = kSteps / kLanes;

// Shared memory of a warp
struct alignas(16) Shared {
    float inputs[kChannels][2 * kSteps + 4]; // d and d u of each step; padded, so that channels are in other banks
    float b[kSteps][kStates], c[kSteps][kStates];
    float sums[kLanes][32][kOwn]; // by steps, then by lane: C h, without the other lanes' states
    uint32 drops[kSteps];
};

// The signals and weights that a lane reads before a tile
struct Tile {
    Element u[kOwn], delta[kOwn], z[kOwn];
    Weights<kSteps>::Part b, c;
    uint32 drop;
};

// states: the states before every kSaved steps, or null; last: the states before the first step on entry, then those
// after the last; reset, lengths, starts, z, D and bias may be null.
KERNEL __launch_bounds__(kWarps * 32)
    selective_fwd(const Element* u, const Element* delta, const float* A, const float* B, const float* C,
                  const float* D, const Element* z, const float* bias, Element* out, float* last, float* states,
                  const Byte* reset, const int64* lengths, const int64* starts, int64 u_row, int64 u_channel,
                  int64 u_time, int64 delta_row, int64 delta_channel, int64 delta_time, int64 z_row, int64 z_channel,
                  int64 z_time, int64 out_row, int64 out_channel, int64 out_time, int64 reset_row, int64 channels,
                  int64 time, int32 groups, int32 blocks, int32 count, int32 softplus, int32 wide) {
    SHARED_MEMORY(Shared, memory);
    const Sizes sizes{lengths, starts, channels, time, groups, blocks, count};
    const Place place(sizes, int32(blockIdx.x));
    if (!place.is_any_here) return;
    Shared& own = memory[place.warp];
    const Line<const Element> of_u(u, place, u_row, u_channel, u_time),
        of_delta(delta, place, delta_row, delta_channel, delta_time), of_z(z, place, z_row, z_channel, z_time);
    const Line<Element> of_out(out, place, out_row, out_channel, out_time);
    const Weights<kSteps> of_b(B, place, sizes), of_c(C, place, sizes);
    const float shift = bias && place.is_here ? bias[place.channel()] : 0.0f;
    const float skip = D && place.is_here ? D[place.channel()] : 0.0f;
    const int64 line = place.line(sizes);
    float a[PER], h[PER];
    place.load(A, 0, sizes, a);
    place.load(last, place.sequence, sizes, h);
#pragma unroll
    for (int n = 0; n < PER; ++n) a[n] *= kLog2e;

    const auto load = [&](int32 t) {
        Tile tile;
        const int32 first = t + kOwn * place.q;
        const bool whole = wide && place.has_all<kOwn>(first);
        of_u.load(place, first, whole, tile.u);
        of_delta.load(place, first, whole, tile.delta);
        if (z) of_z.load(place, first, whole, tile.z);
        tile.b = of_b.load(place, t);
        tile.c = of_c.load(place, t);
        tile.drop = RESET ? drop_of<kSteps>(reset, reset_row, place, t) : 0;
        return tile;
    };
    Tile next = load(place.begin);
    for (int32 t = place.begin; t < place.end; t += kSteps) {
        const Tile tile = next;
        const int32 first = t + kOwn * place.q;
        Pack<float, 2 * kOwn> inputs;
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
            const float raw = to_float(tile.delta[k]) + shift;
            float slope;
            const float d = place.has(first + k) ? softplus ? softplus_of(raw, slope) : raw : 0.0f;
            inputs.x[2 * k] = d;
            inputs.x[2 * k + 1] = d * to_float(tile.u[k]);
        }
        write(&own.inputs[place.c][2 * kOwn * place.q], inputs);
        of_b.store(own.b, place, tile.b);
        of_c.store(own.c, place, tile.c);
        if (RESET && place.lane < kSteps) own.drops[place.lane] = tile.drop;
        if (states && (t - place.begin) % kSaved == 0) place.store(states, line + (t - place.begin) / kSaved, sizes, h);
        warp_barrier();
        next = load(t + kSteps);
#pragma unroll
        for (int part = 0; part < kLanes; ++part) {
            const auto steps = read<2 * kOwn>(&own.inputs[place.c][2 * kOwn * part]);
            Pack<float, kOwn> sums;
#pragma unroll
            for (int k = 0; k < kOwn; ++k) {
                const int i = kOwn * part + k;
                const States b = read<PER>(&own.b[i][PER * place.q]), c = read<PER>(&own.c[i][PER * place.q]);
                const float d = steps.x[2 * k], input = steps.x[2 * k + 1];
                const bool drop = RESET && own.drops[i];
                float sum = 0;
#pragma unroll
                for (int n = 0; n < PER; ++n) {
                    h[n] = fma(exp2_approx(d * a[n]), drop ? 0.0f : h[n], input * b.x[n]);
                    sum = fma(c.x[n], h[n], sum);
                }
                sums.x[k] = sum;
            }
            write(own.sums[part][place.lane], sums);
        }
        warp_barrier();
        float y[kOwn];
#pragma unroll
        for (int k = 0; k < kOwn; ++k) y[k] = skip * to_float(tile.u[k]);
#pragma unroll
        for (int from = 0; from < kLanes; ++from) {
            const auto sums = read<kOwn>(own.sums[place.q][from * kChannels + place.c]);
#pragma unroll
            for (int k = 0; k < kOwn; ++k) y[k] += sums.x[k];
        }
        if (z)
#pragma unroll
            for (int k = 0; k < kOwn; ++k) {
                const float gate = to_float(tile.z[k]);
                y[k] *= gate * sigmoid(gate);
            }
        of_out.store(place, first, wide && place.has_all<kOwn>(first), y);
    }
    place.store(last, place.sequence, sizes, h);
}
