// All steps of s[t] = cell(wx[t] + r h[t-1] + b, s[t-1]) in one launch.

KERNEL IN_CLUSTER __launch_bounds__(kThreads, RESIDENT)
    rnn_fwd(const Element* wx, const Element* r, const Element* b, const Element* h0, const Real* c0, const Real* n0,
            const Real* m0, Element* h_last, Real* c_last, Real* n_last, Real* m_last, Element* h, Real* c, Real* n,
            Real* m, Real* saved, Element* exchange, uint32* arrived, int64 first_group, int32 blocks,
            SHAPE_ARGUMENTS) {
    const Forward forward{wx, b, {h, {c, n, m}}, saved, SHAPE};
    const Shape& shape = forward.shape;
    const Optional first{h0, {c0, n0, m0}};
    const Wanted last{h_last, {c_last, n_last, m_last}};
    Share<G> own;
    own.set_up(shape, first_group, blocks, int(own.pitch(width)));
    own.load(width, [&](int g, int64 u, int64 place) {
        const int64 k = unit_at(place);
        return k < width ? r[((g * heads + own.n) * width + u) * width + k] : Rounding::of(0);
    });
    if (JOINED) exchange += int64(own.group) * 2 * kRows * own.padded();
    if (h0)
        for (int i = int(threadIdx.x); i < own.rows * int(width); i += kThreads) {
            const int row = i / int(width), u = i % int(width);
            own.vectors[row * own.stride + place_of(u)] = h0[shape.of_row(own.row0 + row, own.n, u)];
        }
    own.ready(1);

    Real bias[own.kOneUnit ? 1 : kEach][G], s[kEach][S] = {};
    int length[kEach]; // -1: no such element
    Forward::Source ahead[kEach];
    Forward::Target now[kEach];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        const bool is_here = own.has(e, width);
        if (e == 0 || !own.kOneUnit)
            for (int g = 0; g < G; ++g)
                bias[e][g] = own.unit(e) < width ? forward.bias(own.n, own.unit(e), g) : Real(0);
        length[e] = is_here ? int(shape.length(own.row0 + own.row_of(e))) : -1;
        for (int k = 0; k < S; ++k)
            if (is_here) s[e][k] = first.or_zero(k, shape.of_row(own.row0 + own.row_of(e), own.n, own.unit(e)));
    }
    const auto time_of = [&](int step) { return shape.reverse ? own.steps - 1 - step : step; };
    // In PLAIN, elements that do not exist compute with the inputs of others, so that a step has no branch.
    const int64 stride = forward.stride();
    const auto place = [&](int e, auto find) {
        return find(own.row0 + min(own.row_of(e), own.rows - 1), min(own.unit(e), width - 1));
    };
    const auto seek = [&](int step, int e) {
        if (PLAIN && step > 0) return ahead[e].advance(stride);
        ahead[e] = place(e, [&](int64 row, int64 u) { return forward.source(row, time_of(step), own.n, u); });
    };
    Forward::Loaded next[kEach] = {}; // in storage types, and prefetched a whole step ahead
    const auto ask = [&](int step) {
#pragma unroll
        for (int e = 0; e < kEach; ++e)
            if (PLAIN || time_of(step) < length[e]) {
                seek(step, e);
                forward.load(ahead[e], next[e]);
            }
    };
    if (own.steps) ask(0);
#pragma unroll
    for (int e = 0; e < kEach; ++e)
        if (PLAIN) now[e] = place(e, [&](int64 row, int64 u) { return forward.target(row, time_of(0), own.n, u); });
    for (int step = 0; step < own.steps; ++step) {
        const int t = time_of(step);
        const bool goes_on = step + 1 < own.steps;
        Forward::Inputs in[kEach];
        Real keep[kEach][K];
#pragma unroll
        for (int e = 0; e < kEach; ++e) in[e] = Forward::Inputs(next[e]);
        if (goes_on) ask(step + 1);
        Share<G>::Sums sums;
        own.multiply(step, sums);
#pragma unroll
        for (int e = 0; e < kEach; ++e)
            if (PLAIN || t < length[e]) {
                Real p[G];
                for (int g = 0; g < G; ++g)
                    p[g] = bias[own.kOneUnit ? 0 : e][g] + (in[e].resets ? Real(0) : own.product(sums, g, e));
                forward.step(in[e], p, s[e], keep[e]);
            }
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            const Real sent[] = {length[e] < 0 ? Real(0) : s[e][0]};
            if (CLUSTER > 1 && goes_on)
                own.send_all(step, e, sent);
            else if (TAGGED && goes_on)
                own.send_packets(exchange, step, e, own.pitch(width), sent);
            else if (CLUSTER == 1 && !TAGGED && length[e] >= 0)
                own.put(exchange, step, own.row_of(e), int(own.unit(e)), s[e][0]);
        }
        if (goes_on) own.arrive(arrived);
#pragma unroll
        for (int e = 0; e < kEach; ++e) { // while the other blocks arrive
            if (!PLAIN && t < length[e])
                now[e] = place(e, [&](int64 row, int64 u) { return forward.target(row, t, own.n, u); });
            if (PLAIN ? length[e] >= 0 : t < length[e])
                forward.store(now[e], s[e], keep[e]);
            else if (length[e] >= 0)
                forward.pad(own.row0 + own.row_of(e), t, own.n, own.unit(e));
            if (PLAIN) now[e].advance(stride);
        }
        if (goes_on) own.meet(exchange, arrived, step, blocks, 1);
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        if (length[e] < 0) continue;
        const int64 row = own.row0 + own.row_of(e);
        for (int64 t = shape.has_padding() ? own.steps : time; t < time; ++t) forward.pad(row, t, own.n, own.unit(e));
        for (int k = 0; k < S; ++k) last.put(k, shape.of_row(row, own.n, own.unit(e)), s[e][k]);
    }
}
