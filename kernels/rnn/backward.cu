// The gradients of rnn_fwd, backwards over all steps in one launch: a step uses r^T times the dp of the previous visit.

KERNEL IN_CLUSTER __launch_bounds__(kThreads, RESIDENT)
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
    const int64 pitch = own.pitch(width); // distance of the gates in the vectors
    own.set_up(shape, first_group, blocks, int(G * pitch));
    own.load(width, [&](int, int64 u, int64 k) {
        const int64 row = k % pitch;
        return row < width ? r[((k / pitch * heads + own.n) * width + row) * width + u] : Rounding::of(0);
    });
    if (JOINED) exchange += int64(own.group) * 2 * kRows * own.padded();
    own.ready(G);

    Real ds[kEach][S] = {};
    int length[kEach]; // -1: no such element
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        const bool is_here = own.has(e, width);
        length[e] = is_here ? int(shape.length(own.row0 + own.row_of(e))) : -1;
        for (int k = 0; k < S; ++k)
            if (is_here && dlast[k]) ds[e][k] = dlast[k][shape.of_row(own.row0 + own.row_of(e), own.n, own.unit(e))];
    }
    static_assert(kEach <= 32);
    uint32 passes = 0; // one bit per element: the previous visit was a step that received h'
    // dp = 0 before a row's last step and after its first one; its ds no longer change after the last product is added.
    const int visits = own.steps + (dh0 != nullptr);
    const auto time_of = [&](int visit) {
        return visit == own.steps ? int(time) : shape.reverse ? visit : own.steps - 1 - visit;
    };
    Backward::Inputs next[kEach] = {}; // in storage types, and prefetched a whole step ahead
    const auto ask = [&](int visit) {
#pragma unroll
        for (int e = 0; e < kEach; ++e)
            if (time_of(visit) < length[e])
                backward.load(own.row0 + own.row_of(e), time_of(visit), own.n, own.unit(e), next[e]);
    };
    if (visits) ask(0);
    for (int visit = 0; visit < visits; ++visit) {
        const int t = time_of(visit);
        const bool goes_on = visit + 1 < visits;
        Backward::Inputs in[kEach];
        Real dx[kEach][G], dp[kEach][G];
#pragma unroll
        for (int e = 0; e < kEach; ++e) in[e] = next[e];
        if (goes_on) ask(visit + 1);
        Share<1>::Sums sums;
        own.multiply(visit, sums);
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            for (int g = 0; g < G; ++g) dp[e][g] = 0;
            if (length[e] >= 0) {
                if (PLAIN ? visit > 0 : passes >> e & 1)
                    ds[e][0] = shape.clipped_gradient(ds[e][0] + own.product(sums, 0, e));
                passes &= ~(uint32(1) << e);
                if (t < length[e]) {
                    backward.step(in[e], ds[e], dx[e], dp[e]);
                    passes |= uint32(!in[e].resets) << e;
                }
                if (CLUSTER == 1)
                    for (int g = 0; g < G; ++g)
                        own.put(exchange, visit, own.row_of(e), own.term(g, own.unit(e), width), dp[e][g]);
            }
            if (CLUSTER > 1 && goes_on) own.send_all(visit, e, dp[e]);
        }
        if (goes_on) own.arrive(arrived);
#pragma unroll
        for (int e = 0; e < kEach; ++e) { // while the other blocks arrive
            const int64 row = own.row0 + own.row_of(e);
            if (t < length[e])
                backward.store(row, t, own.n, own.unit(e), dx[e], dp[e]);
            else if (length[e] >= 0 && t < time)
                backward.pad(row, t, own.n, own.unit(e));
        }
        if (goes_on) own.meet(exchange, arrived, visit, blocks, G);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        if (length[e] < 0) continue;
        const int64 row = own.row0 + own.row_of(e);
        for (int64 t = shape.has_padding() ? own.steps : time; t < time; ++t) backward.pad(row, t, own.n, own.unit(e));
        for (int k = 0; k < S; ++k)
            if (dfirst[k]) dfirst[k][shape.of_row(row, own.n, own.unit(e))] = ds[e][k];
    }
}
