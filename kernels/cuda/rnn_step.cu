// One step of the recurrence, or of its gradients, for all rows, heads and units, a thread each: what is left beside the
// batched products with r, where r does not fit into the registers and shared memory of a card.

struct Unit {
    int64 row, n, u, at; // at: in (N, B, D), the layout of the batched products
    bool is_here;
    INLINE explicit Unit(const Shape& shape) {
        at = int64(blockIdx.x) * blockDim.x + threadIdx.x;
        u = at % shape.width, row = at / shape.width % shape.batch, n = at / (shape.width * shape.batch);
        is_here = n < shape.heads;
    }
    INLINE int64 gate(const Shape& shape, int g) const { return ((n * shape.batch + row) * G + g) * shape.width + u; }
};

// p, h: products r h' in (N, B, G, D), states in (N, B, D); kept: c, n, m of all units, [S - 1][N B D], in Real.
// t = -1 puts the initial states there; t = T writes the final states.
KERNEL rnn_step_fwd(const Element* wx, const Element* b, const Element* p, Element* h, Real* kept, const Element* h0,
                    const Element* c0, const Element* n0, const Element* m0, Element* h_last, Element* c_last,
                    Element* n_last, Element* m_last, Element* h_all, Element* c_all, Element* n_all, Element* m_all,
                    Element* saved, int64 t, SHAPE_ARGUMENTS) {
    const Forward forward{wx, b, {h_all, c_all, n_all, m_all}, saved, SHAPE};
    const Shape& shape = forward.shape;
    const Element* const first[] = {h0, c0, n0, m0};
    Element* const last[] = {h_last, c_last, n_last, m_last};
    const Unit own(shape);
    if (!own.is_here) return;
    const int64 size = batch * heads * width, state = shape.at(own.row, own.n, own.u);
    Real s[S];
    for (int k = 0; k < S; ++k)
        s[k] = t < 0    ? load_or_zero(first[k], state)
               : k == 0 ? Real(to_float(h[own.at]))
                        : kept[(k - 1) * size + own.at];
    if (t >= 0 && t < time) {
        if (t >= shape.length(own.row)) return forward.pad(own.row, t, own.n, own.u);
        Real x[G], all[G];
        forward.load(own.row, t, own.n, own.u, x);
        for (int g = 0; g < G; ++g)
            all[g] = load_or_zero(b, shape.at(0, own.n, own.u, G, g)) + to_float(p[own.gate(shape, g)]);
        forward.step(own.row, t, own.n, own.u, x, all, s);
    }
    for (int k = 0; k < S; ++k) {
        if (t == time)
            last[k][state] = Rounding::of(s[k]);
        else if (k == 0)
            h[own.at] = Rounding::of(s[0]);
        else
            kept[(k - 1) * size + own.at] = s[k];
    }
}

// through: r^T dp of the visit before, (N, B, D); dp: gradients of this step's products, (N, B, G, D); ds: what flows back,
// [S][N B D], in Real. t = -1 puts the gradients of the final states there; t = T writes those of the initial states.
KERNEL rnn_step_bwd(const Element* through, Element* dp, Real* ds, const Element* h0, const Element* c0,
                    const Element* n0, const Element* m0, const Element* h, const Element* c, const Element* n,
                    const Element* m, const Element* saved, const Element* dh, const Element* dc, const Element* dn,
                    const Element* dm, const Element* dh_last, const Element* dc_last, const Element* dn_last,
                    const Element* dm_last, Element* dwx, Element* dq, Element* dh0, Element* dc0, Element* dn0,
                    Element* dm0, int64 t, SHAPE_ARGUMENTS) {
    const Backward backward{{h0, c0, n0, m0}, {h, c, n, m}, saved, {dh, dc, dn, dm}, dwx, dq, SHAPE};
    const Shape& shape = backward.shape;
    const Element* const dlast[] = {dh_last, dc_last, dn_last, dm_last};
    Element* const dfirst[] = {dh0, dc0, dn0, dm0};
    const Unit own(shape);
    if (!own.is_here) return;
    const int64 size = batch * heads * width, state = shape.at(own.row, own.n, own.u);
    Real now[S], gates[G] = {};
    for (int k = 0; k < S; ++k) now[k] = t < 0 ? load_or_zero(dlast[k], state) : ds[k * size + own.at];
    if (t >= 0) now[0] += to_float(through[own.at]);
    if (t >= 0 && t < shape.length(own.row)) {
        Backward::Inputs in;
        backward.load(own.row, t, own.n, own.u, in);
        backward.step(own.row, t, own.n, own.u, in, now, gates);
    } else if (t >= 0 && t < time) {
        backward.pad(own.row, t, own.n, own.u);
    }
    for (int k = 0; k < S; ++k) {
        ds[k * size + own.at] = now[k];
        if (t == time && dfirst[k]) dfirst[k][state] = Rounding::of(now[k]);
    }
    for (int g = 0; g < G; ++g) dp[own.gate(shape, g)] = Rounding::of(gates[g]);
}
