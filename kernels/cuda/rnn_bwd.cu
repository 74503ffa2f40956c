// The gradients of rnn_fwd, all steps back in time in one launch: a step takes r^T times the dp of the visit before.

KERNEL __launch_bounds__(kThreads, RESIDENT)
    rnn_bwd(const Element* r, const Element* h0, const Element* c0, const Element* n0, const Element* m0,
            const Element* h, const Element* c, const Element* n, const Element* m, const Element* saved,
            const Element* dh, const Element* dc, const Element* dn, const Element* dm, const Element* dh_last,
            const Element* dc_last, const Element* dn_last, const Element* dm_last, Element* dwx, Element* dq,
            Element* dh0, Element* dc0, Element* dn0, Element* dm0, Element* exchange, uint32* arrived,
            int64 first_group, int32 blocks, SHAPE_ARGUMENTS) {
    const Backward backward{{h0, c0, n0, m0}, {h, c, n, m}, saved, {dh, dc, dn, dm}, dwx, dq, SHAPE};
    const Shape& shape = backward.shape;
    const Element* const dlast[] = {dh_last, dc_last, dn_last, dm_last};
    Element* const dfirst[] = {dh0, dc0, dn0, dm0};
    Share<1> own;
    own.set_up(shape, first_group, blocks, int(G * width));
    own.load(width, int(G * width),
             [&](int, int64 u, int64 k) { return r[((k / width * heads + own.n) * width + k % width) * width + u]; });
    if (JOINED) exchange += int64(own.group) * 2 * kRows * own.padded();
    block_barrier();

    Real ds[kEach][S] = {};
    int length[kEach]; // -1: there is no such element
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        const bool is_here = own.has(e, width);
        length[e] = is_here ? int(shape.length(own.row0 + own.row_of(e))) : -1;
        for (int k = 0; k < S; ++k)
            if (is_here) ds[e][k] = load_or_zero(dlast[k], shape.at(own.row0 + own.row_of(e), own.n, own.unit(e)));
    }
    // Where a row has not begun on this way back, or has ended, dp = 0: its ds stay, once they have the last product.
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
            ds[e][0] += own.product(0, e);
            if (t < length[e])
                backward.step(own.row0 + row, t, own.n, own.unit(e), in[e], ds[e], dp);
            else if (t < time)
                backward.pad(own.row0 + row, t, own.n, own.unit(e));
            for (int g = 0; g < G; ++g) own.put(exchange, visit, row, int(g * width + own.unit(e)), dp[g]);
        }
        if (visit + 1 < visits) own.meet(exchange, arrived, visit, blocks);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        if (length[e] < 0) continue;
        const int64 row = own.row0 + own.row_of(e);
        for (int64 t = own.steps; t < time; ++t) backward.pad(row, t, own.n, own.unit(e));
        for (int k = 0; k < S; ++k)
            if (dfirst[k]) dfirst[k][shape.at(row, own.n, own.unit(e))] = Rounding::of(ds[e][k]);
    }
}
