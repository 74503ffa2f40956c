// The entry points of Newton's method and of its gradients: one block per UNITS units of one row, all steps in one
// launch.

// first, last: (S, B, D); counts: (B, blocks per row, windows), 0 on entry
KERNEL __launch_bounds__(256, 1)
    newton_fwd(Real* wx, const Real* a, const Real* p, const Real* first, Real* h, Real* c, Real* last, int32* counts,
               int64 wx_row, int64 wx_time, int64 wx_gate, int64 h_row, int64 h_time, int64 windows, int32 window,
               int64 max_steps, double rtol, double atol, SHAPE_ARGUMENTS) {
    SHARED_MEMORY(Map, memory);
    const Place place(SHAPE);
    const Options options{window, max_steps, Real(rtol), Real(atol)};
    Real* const data[] = {h, c};
    Steps states[S];
    for (int n = 0; n < S; ++n) states[n] = {data[n], h_row, h_time, 0};
    Solver solver{place, {wx, wx_row, wx_time, wx_gate}, states, options, Shared(memory)};
    place.load_weights(a, p, solver.a, solver.p);
    solver.run(first, last, counts + blockIdx.x * windows);
}

// steps (2, B): per row, the maximum number of passes over a window, and the number of windows run step by step; one
// // warp per row
KERNEL newton_counts(const int32* counts, int64 blocks, int64 windows, int64 rows, int64* steps) {
    const int64 row = blockIdx.x;
    int64 largest = 0, abandoned = 0;
    for (int64 w = threadIdx.x; w < windows; w += 32) {
        int32 gave_up = 0;
        for (int64 block = 0; block < blocks; ++block) {
            const int32 count = counts[(row * blocks + block) * windows + w];
            largest = max(largest, int64(count / 2));
            gave_up |= count & 1;
        }
        abandoned += gave_up;
    }
    for (int by = 16; by > 0; by /= 2) {
        largest = max(largest, from_lane_xor(largest, by));
        abandoned += from_lane_xor(abandoned, by);
    }
    if (threadIdx.x == 0) {
        steps[row] = largest;
        steps[rows + row] = abandoned;
    }
}

// The exact gradients, from the last step to the first. Let r be the gradient of the states before a step and g the
// gradient of h after it: r = J^T (r' + g), which is a scan, as the states are known. dh, dlast: null means 0;
// da (B, G, D) and dp (B, 2, D): one per row, or null.
KERNEL __launch_bounds__(256, 1)
    newton_bwd(Real* wx, const Real* a, const Real* p, const Real* first, Real* h, Real* c, Real* dh, const Real* dlast,
               Real* dwx, Real* dfirst, Real* da, Real* dp, int64 wx_row, int64 wx_time, int64 wx_gate, int64 h_row,
               int64 h_time, int64 dh_row, int64 dh_time, int64 dwx_row, int64 dwx_time, int64 dwx_gate,
               SHAPE_ARGUMENTS) {
    SHARED_MEMORY(Map, memory);
    const Place place(SHAPE);
    Gradient gradient{place,
                      {wx, wx_row, wx_time, wx_gate},
                      {{h, h_row, h_time, 0}, {c, h_row, h_time, 0}},
                      {dh, dh_row, dh_time, 0},
                      {dwx, dwx_row, dwx_time, dwx_gate},
                      memory};
    place.load_weights(a, p, gradient.a, gradient.p);
    place.load_state(first, gradient.first);
    gradient.run(dlast, dfirst);
    gradient.add_up(da, dp);
    place.pad(gradient.dwx, G);
}
