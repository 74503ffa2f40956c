// One step of the recurrence, or of its gradients, without the batched products with r, with one thread per row, head
// and unit: for an r too large for the registers and shared memory of a GPU.

struct Unit {
    int64 row, n, u, at; // at: offset in (N, B, D), the layout of the batched products
    bool is_here;
    INLINE explicit Unit(const Shape& shape) {
        at = int64(blockIdx.x) * blockDim.x + threadIdx.x;
        u = at % shape.width;
        row = at / shape.width % shape.batch;
        n = at / (shape.width * shape.batch);
        is_here = n < shape.heads;
    }
    INLINE int64 gate(const Shape& shape, int g) const { return ((n * shape.batch + row) * G + g) * shape.width + u; }
};

// p: products r h' (N, B, G, D); h: states (N, B, D); internal: c, n, m of all units, [S - 1][N B D], in Real. The step is
// t = step, or start[0] + step in a CUDA graph, which counts steps in memory. t = -1 loads the initial states; t = T
// writes the final states.
KERNEL rnn_step_fwd(const Element* wx, const Element* b, const Element* p, Element* h, Real* internal,
                    const Element* h0, const Real* c0, const Real* n0, const Real* m0, Element* h_last, Real* c_last,
                    Real* n_last, Real* m_last, Element* h_all, Real* c_all, Real* n_all, Real* m_all, Real* saved,
                    const int64* start, int64 step, SHAPE_ARGUMENTS) {
    const Forward forward{wx, b, {h_all, {c_all, n_all, m_all}}, saved, SHAPE};
    const Shape& shape = forward.shape;
    const Optional first{h0, {c0, n0, m0}};
    const Wanted last{h_last, {c_last, n_last, m_last}};
    const Unit own(shape);
    if (!own.is_here) return;
    const int64 t = start ? *start + step : step;
    const int64 size = batch * heads * width, state = shape.of_row(own.row, own.n, own.u);
    Real s[S];
    for (int k = 0; k < S; ++k)
        s[k] = t < 0 ? first.or_zero(k, state) : k == 0 ? Real(to_float(h[own.at])) : internal[(k - 1) * size + own.at];
    if (t >= 0 && t < time) {
        if (t >= shape.length(own.row)) return forward.pad(own.row, t, own.n, own.u);
        Forward::Loaded loaded;
        Real all[G], keep[K];
        forward.load(forward.source(own.row, t, own.n, own.u), loaded);
        const Forward::Inputs in(loaded);
        for (int g = 0; g < G; ++g)
            all[g] = forward.bias(own.n, own.u, g) + (in.resets ? Real(0) : to_float(p[own.gate(shape, g)]));
        forward.step(in, all, s, keep);
        forward.store(forward.target(own.row, t, own.n, own.u), s, keep);
    }
    for (int k = 0; k < S; ++k) {
        if (t == time)
            last.put(k, state, s[k]);
        else if (k == 0)
            h[own.at] = Rounding::of(s[0]);
        else
            internal[(k - 1) * size + own.at] = s[k];
    }
}

// through: r^T dp of the previous visit, (N, B, D); dp: gradients of this step's products, (N, B, G, D); ds: gradients
// that flow back, [S][N B D], in Real. t is as above; t = -1 loads the gradients of the final states; t = T writes
// those of the initial states.
KERNEL rnn_step_bwd(const Element* through, Element* dp, Real* ds, const Element* h0, const Real* c0, const Real* n0,
                    const Real* m0, const Element* h, const Real* c, const Real* n, const Real* m, const Real* saved,
                    const Element* dh, const Real* dc, const Real* dn, const Real* dm, const Real* dh_last,
                    const Real* dc_last, const Real* dn_last, const Real* dm_last, Element* dwx, Element* dq, Real* dh0,
                    Real* dc0, Real* dn0, Real* dm0, const int64* start, int64 step, SHAPE_ARGUMENTS) {
    const Backward backward{{h0, {c0, n0, m0}}, {h, {c, n, m}}, saved, {dh, {dc, dn, dm}}, dwx, dq, SHAPE};
    const Shape& shape = backward.shape;
    const Real* const dlast[] = {dh_last, dc_last, dn_last, dm_last};
    Real* const dfirst[] = {dh0, dc0, dn0, dm0};
    const Unit own(shape);
    if (!own.is_here) return;
    const int64 t = start ? *start + step : step;
    const int64 size = batch * heads * width, state = shape.of_row(own.row, own.n, own.u);
    Real now[S], gates[G] = {};
    for (int k = 0; k < S; ++k) now[k] = t >= 0 ? ds[k * size + own.at] : dlast[k] ? dlast[k][state] : Real(0);
    const int64 length = shape.length(own.row), t_after = shape.reverse ? t - 1 : t == time ? 0 : t + 1;
    if (t >= 0 && t_after >= 0 && t_after < length && !shape.resets(own.row, t_after))
        now[0] = shape.clipped_gradient(now[0] + to_float(through[own.at]));
    if (t >= 0 && t < length) {
        Backward::Inputs in;
        Real dx[G];
        backward.load(own.row, t, own.n, own.u, in);
        backward.step(in, now, dx, gates);
        backward.store(own.row, t, own.n, own.u, dx, gates);
    } else if (t >= 0 && t < time) {
        backward.pad(own.row, t, own.n, own.u);
    }
    for (int k = 0; k < S; ++k) {
        ds[k * size + own.at] = now[k];
        if (t == time && dfirst[k]) dfirst[k][state] = now[k];
    }
    for (int g = 0; g < G; ++g) dp[own.gate(shape, g)] = Rounding::of(gates[g]);
}
