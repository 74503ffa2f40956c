// The gradients of ParaGRU and ParaLSTM along time, one chunk of steps per thread, from the last step to the first.
#pragma once

struct Gradient {
    const Place& place;
    const Steps wx, states[2], dh, dwx;
    Map* totals; // (warps, U), then the window's incoming gradient (U, S), then sums (warps, U, G + P)
    Real a[G], p[P + 1], first[S];
    Real sums[G + P] = {};

    INLINE Real* carry() const { return reinterpret_cast<Real*>(totals + blockDim.x / 32 * U) + place.u * S; }

    // The states before step i
    INLINE void load_before(int64 i, Real (&s)[S]) const {
        for (int n = 0; n < S; ++n) s[n] = i > 0 && place.is_here ? *place.at(states[n], i - 1) : first[n];
    }

    // Processes the window whose last step is `last`; synchronises the block twice.
    INLINE void window(int64 last) {
        Cell cell[C];
        Real before[C][S], dy[C], r[S], jt[S][S];
        Map map = identity();
        for (int n = 0; n < S; ++n) r[n] = carry()[n];
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const int64 i = last - (place.k * C + c);
            if (i < 0) continue;
            Real x[G];
            for (int g = 0; g < G; ++g) x[g] = place.is_here ? *place.at(wx, i, g) : Real(0);
            dy[c] = dh.data && place.is_here ? *place.at(dh, i) : Real(0);
            load_before(i, before[c]);
            cell[c].begin(x, a, p, before[c]);
            transposed(cell[c], before[c], jt);
            map.b[0] += dy[c];
            follow(jt, map);
        }
        enter<Add>(map, r, totals, [](Real(&)[S], int) {});
#pragma unroll
        for (int c = 0; c < C; ++c) {
            const int64 i = last - (place.k * C + c);
            if (i < 0) continue;
            Real dx[G], dw[G + P];
            r[0] += dy[c];
            cell[c].gradient(a, p, before[c], r, dx, dw);
            for (int g = 0; g < G; ++g)
                if (place.is_here) *place.at(dwx, i, g) = dx[g];
            for (int g = 0; g < G + P; ++g) sums[g] += dw[g];
            transposed(cell[c], before[c], jt);
            multiply(jt, r);
            if (i == 0 || (c == C - 1 && place.k == int(blockDim.x) / U - 1))
                for (int n = 0; n < S; ++n) carry()[n] = r[n];
        }
        block_barrier();
    }

    INLINE void transposed(const Cell& cell, const Real* s, Real (&jt)[S][S]) const {
        Real j[S][S];
        cell.jacobian(a, p, s, j);
        for (int i = 0; i < S; ++i)
            for (int l = 0; l < S; ++l) jt[i][l] = j[l][i];
    }

    // Computes the gradients of the initial states from those of the final ones, (S, B, D).
    INLINE void run(const Real* dlast, Real* dfirst) {
        Real r[S];
        place.load_state(dlast, r);
        if (place.k == 0)
            for (int n = 0; n < S; ++n) carry()[n] = r[n];
        block_barrier();
        for (int64 last = place.length - 1; last >= 0; last -= blockDim.x / U * C) window(last);
        if (place.k == 0 && place.is_here)
            for (int n = 0; n < S; ++n) dfirst[place.state(n)] = carry()[n];
    }

    // Sums over the row's steps, in a fixed order
    INLINE void add_up(Real* da, Real* dp) {
        if (!da) return;
        const int lane = int(threadIdx.x) % 32, warps = int(blockDim.x) / 32;
        Real* const of_warp = carry() + (U - place.u) * S + place.u * (G + P);
        for (int g = 0; g < G + P; ++g) {
            for (int by = U; by < 32; by *= 2) sums[g] += from_lane_xor(sums[g], by);
            if (lane < U) of_warp[threadIdx.x / 32 * U * (G + P) + g] = sums[g];
        }
        block_barrier();
        if (place.k > 0 || !place.is_here) return;
        for (int g = 0; g < G + P; ++g) {
            Real sum = 0;
            for (int w = 0; w < warps; ++w) sum += of_warp[w * U * (G + P) + g];
            Real* const to =
                g < G ? da + (place.row * G + g) * place.shape.width : dp + (place.row * P + g - G) * place.shape.width;
            to[place.unit] = sum;
        }
    }
};
