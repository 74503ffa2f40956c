// The gradients of rnn_fwd, all steps back in time in one launch: a step takes r^T times the dp of the previous visit.

KERNEL __launch_bounds__(kThreads, RESIDENT)
    rnn_bwd(const Element* r, const Element* h0, const Real* c0, const Real* n0, const Real* m0, const Element* h,
            const Real* c, const Real* n, const Real* m, const Real* saved, const Element* dh, const Real* dc,
            const Real* dn, const Real* dm, const Real* dh_last, const Real* dc_last, const Real* dn_last,
            const Real* dm_last, Element* dwx, Element* dq, Real* dh0, Real* dc0, Real* dn0, Real* dm0,
            Element* exchange, uint32* arrived, int64 first_group, int32 blocks, SHAPE_ARGUMENTS) {
    const Backward backward{{h0, {c0, n0, m0}}, {h, {c, n, m}}, saved, {dh, {dc, dn, dm}}, dwx, dq, SHAPE};
    const Shape& shape = backward.shape;
    const Real* const dlast[] = {dh_last, dc_last, dn_last, dm_last};
    Real* const dfirst[] = {dh0, dc0, dn0, dm0};
    Share<1> own;
    own.set_up(shape, first_group, blocks, int(G * width));
    own.load(width, int(G * width),
             [&](int, int64 u, int64 k) { return r[((k / width * heads + own.n) * width + k % width) * width + u]; });
    if (JOINED) exchange += int64(own.group) * 2 * kRows * own.padded();
    block_barrier();

    Real ds[kEach][S] = {};
    int length[kEach]; // -1: no such element
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        const bool is_here = own.has(e, width);
        length[e] = is_here ? int(shape.length(own.row0 + own.row_of(e))) : -1;
        for (int k = 0; k < S; ++k)
            if (is_here && dlast[k]) ds[e][k] = dlast[k][shape.at(own.row0 + own.row_of(e), own.n, own.unit(e))];
    }
    static_assert(kEach <= 32);
    uint32 passes = 0; // one bit per element: the previous visit was a step that received h'
    // dp = 0 where a row has not begun on this way back, or has ended: its ds stay, once they have the last product.
    const int visits = own.steps + (dh0 != nullptr);
    for (int visit = 0; visit < visits; ++visit) {
        const int t = visit == own.steps ? int(time) : shape.reverse ? visit : own.steps - 1 - visit;
        Backward::Inputs in[kEach];
#pragma unroll
        for (int e = 0; e < kEach; ++e)
            if (t < length[e]) backward.load(own.row0 + own.row_of(e), t, own.n, own.unit(e), in[e]);
        own.multiply();
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            if (length[e] < 0) continue;
            const int row = own.row_of(e);
            Real dp[G] = {};
            if (passes >> e & 1) ds[e][0] = held_or_cut(ds[e][0] + own.product(0, e), shape.clip_grad);
            passes &= ~(uint32(1) << e);
            if (t < length[e]) {
                backward.step(own.row0 + row, t, own.n, own.unit(e), in[e], ds[e], dp);
                passes |= uint32(!in[e].resets) << e;
            } else if (t < time) {
                backward.pad(own.row0 + row, t, own.n, own.unit(e));
            }
            for (int g = 0; g < G; ++g) own.put(exchange, visit, row, int(g * width + own.unit(e)), dp[g]);
        }
        if (visit + 1 < visits) own.meet(exchange, arrived, visit, blocks);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        if (length[e] < 0) continue;
        const int64 row = own.row0 + own.row_of(e);
        for (int64 t = shape.has_padding() ? own.steps : time; t < time; ++t) backward.pad(row, t, own.n, own.unit(e));
        for (int k = 0; k < S; ++k)
            if (dfirst[k]) dfirst[k][shape.at(row, own.n, own.unit(e))] = ds[e][k];
    }
}
