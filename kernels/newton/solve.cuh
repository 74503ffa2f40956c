// Newton's method on windows of time for ParaGRU and ParaLSTM, all windows of a row in one launch. A pass reads the old
// states y and computes the new states y+, where both are the exact state before the window:
//
//   y+[t] = f(y[t-1]) + J(y[t-1]) (y+[t-1] - y[t-1])
//
// Each thread has a chunk of steps, whose x and y stay in registers for all passes: it computes f and J there, composes
// the changes y+ - y through its chunk, and receives the change at the step before its chunk from a scan. The rules are
// those of csrc/newton/cpu/newton.hpp, with UNITS units of one row that converge together: leading steps within the
// tolerance are final, and the first step always is; a window that takes too many passes, whose changes grow or are not
// finite continues step by step; so does the whole row if an error may grow by a factor of more than kSensitive.
#pragma once

constexpr Real kGrowth = 4, kSensitive = 256;

struct Options {
    int32 window;
    int64 max_steps;
    Real rtol, atol;
};

// Shared memory of the block
struct Shared {
    Map* totals;         // (warps, U), for the scans
    Real* edge;          // (2, chunks, U, S): y at the last step of each chunk, double-buffered across passes
    Real *state, *error; // (U, S): before the window; state also passes on the last final step
    Real* change;        // (warps)
    int32 *first, *flag; // (warps)

    INLINE explicit Shared(Map* memory) {
        const int threads = int(blockDim.x), warps = threads / 32;
        totals = memory;
        edge = reinterpret_cast<Real*>(totals + warps * U);
        state = edge + 2 * threads * S;
        error = state + U * S;
        change = error + U * S;
        first = reinterpret_cast<int32*>(change + warps);
        flag = first + warps;
    }
};

struct Solver {
    const Place& place;
    const Steps wx, (&states)[S];
    const Options& options;
    Shared shared;
    Real a[G], p[P + 1];
    Real x[C][G], y[C][S], j[C][S][S]; // this thread's steps of the window
    Real limit[S];
    int turn = 0;

    INLINE int index(int c) const { return place.k * C + c; } // within the window
    INLINE int lane() const { return int(threadIdx.x) % 32; }
    INLINE int warp() const { return int(threadIdx.x) / 32; }
    INLINE int warps() const { return int(blockDim.x) / 32; }

    INLINE void load(int64 begin, int64 end, Real (&to)[C][G]) const {
#pragma unroll
        for (int c = 0; c < C; ++c)
            for (int g = 0; g < G; ++g)
                to[c][g] = place.is_here && begin + c < end ? *place.at(wx, begin + c, g) : Real(0);
    }
    INLINE void store(int64 i, const Real (&s)[S]) const {
        for (int n = 0; n < S; ++n)
            if (states[n].data && place.is_here) *place.at(states[n], i) = s[n];
    }
    INLINE void read(const Real* from, Real (&s)[S]) const {
        for (int n = 0; n < S; ++n) s[n] = from[place.u * S + n];
    }
    INLINE void write(Real* to, const Real (&s)[S]) const {
        for (int n = 0; n < S; ++n) to[place.u * S + n] = s[n];
    }
    // y before chunk k: in the current buffer, or with `later` = 1 in the next pass's, as others may still read the
    // current one
    INLINE Real* edge(int k, int later = 0) const {
        return k ? shared.edge + ((turn + later) % 2 * int(blockDim.x) + (k - 1) * U) * S : shared.state;
    }

    // Clamps to the bound of every solution, max(1, |state before|), enlarged by a quarter for rounding.
    INLINE Real put_back(Real v, int n) const { return v > limit[n] ? limit[n] : v < -limit[n] ? -limit[n] : v; }

    // Starts the window: computes its initial guess, from zero states, and the bounds.
    INLINE void begin(int64 begin, int count) {
        load(begin + index(0), begin + count, x);
        const Real zero[S] = {};
        Real s[S];
        read(shared.state, s);
        for (int n = 0; n < S; ++n) limit[n] = Real(1.25) * (abs(s[n]) < 1 ? Real(1) : abs(s[n]));
        if (S == 2) limit[0] = 1;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            Cell cell;
            cell.begin(x[c], a, p, zero);
            cell.after(zero, y[c]);
        }
        write(edge(place.k + 1), y[C - 1]);
        block_barrier();
    }

    struct Progress {
        int final_steps;
        Real change; // the sum of all changes
    };

    // One pass over steps [done, count). Synchronises the block twice.
    INLINE Progress pass(int done, int count) {
        Real f[C][S], before[S], d[S] = {};
        Map map = identity();
        read(edge(place.k), before);
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (index(c) < done) {
                map = {};
            } else if (index(c) < count) {
                Cell cell;
                cell.begin(x[c], a, p, before);
                cell.after(before, f[c]);
                cell.jacobian(a, p, before, j[c]);
                follow(j[c], map);
                for (int n = 0; n < S; ++n) map.b[n] += f[c][n] - y[c][n];
            }
            for (int n = 0; n < S; ++n) before[n] = y[c][n];
        }
        enter<Add>(map, d, shared.totals, [&](Real(&v)[S], int k) { // clamps at chunk borders as well
            Real old[S];
            read(edge(k), old);
            for (int n = 0; n < S; ++n)
                v[n] = abs(old[n] + v[n]) > limit[n] ? put_back(old[n] + v[n], n) - old[n] : v[n];
        });
        int first_bad = count;
        Real change = 0;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (index(c) < done || index(c) >= count) continue;
            if (index(c) == done)
                for (int n = 0; n < S; ++n) d[n] = 0;
            multiply(j[c], d);
            for (int n = 0; n < S; ++n) {
                const Real fresh = put_back(d[n] == 0 ? f[c][n] : f[c][n] + d[n], n); // keeps -0
                const Real residual = abs(f[c][n] - y[c][n]), bound = options.rtol * abs(fresh) + options.atol;
                d[n] = fresh - y[c][n];
                if (!(abs(d[n]) <= bound && residual <= bound)) first_bad = min(first_bad, index(c)); // NaN is bad
                change += abs(d[n]);
                y[c][n] = fresh;
            }
        }
        write(edge(place.k + 1, 1), y[C - 1]);
        ++turn;
        return all_agree(first_bad, change, done);
    }

    INLINE Progress all_agree(int first_bad, Real change, int done) const {
        for (int by = 16; by > 0; by /= 2) {
            first_bad = min(first_bad, from_lane_xor(first_bad, by));
            change += from_lane_xor(change, by);
        }
        if (lane() == 0) {
            shared.first[warp()] = first_bad;
            shared.change[warp()] = change;
        }
        block_barrier();
        first_bad = shared.first[0];
        change = shared.change[0];
        for (int w = 1; w < warps(); ++w) {
            first_bad = min(first_bad, shared.first[w]);
            change += shared.change[w];
        }
        return {max(first_bad, done + 1), change};
    }

    // Propagates an error of the states before a step to those after it, with a minimum of 1 + |y|; returns false if it
    // has grown so much that the tolerance does not bound the error.
    INLINE static bool pass_error_on(const Real (&j)[S][S], const Real (&y)[S], Real (&error)[S]) {
        bool is_small = true;
        multiply(j, error);
        for (int n = 0; n < S; ++n) {
            const Real unit = 1 + abs(y[n]);
            is_small = is_small && abs(error[n]) <= kSensitive * unit; // false for NaN
            if (abs(error[n]) < unit) error[n] = error[n] < 0 ? -unit : unit;
        }
        return is_small;
    }

    // The same for the final steps of the window; the largest error has one source, so chunks can be composed.
    INLINE bool errors_are_small(int done) {
        Map map = identity();
        Real error[S];
        bool is_small = true;
        read(shared.error, error);
#pragma unroll
        for (int c = 0; c < C; ++c)
            if (index(c) < done) {
                Real begun[S];
                for (int n = 0; n < S; ++n) begun[n] = map.b[n];
                follow(j[c], map);
                pass_error_on(j[c], y[c], begun);
                for (int n = 0; n < S; ++n) map.b[n] = begun[n];
            }
        enter<Larger>(map, error, shared.totals, [](Real(&)[S], int) {});
#pragma unroll
        for (int c = 0; c < C; ++c)
            if (index(c) < done) {
                is_small = pass_error_on(j[c], y[c], error) && is_small;
                if (index(c) == done - 1) write(shared.error, error);
            }
        const bool bad = any_lane(!is_small);
        if (lane() == 0) shared.flag[warp()] = bad;
        block_barrier();
        for (int w = 0; w < warps(); ++w) is_small = is_small && !shared.flag[w];
        return is_small;
    }

    // Computes steps [begin, end) one by one, on the first threads, starting from shared.state.
    INLINE bool loop(int64 begin, int64 end) {
        Real s[S], error[S];
        bool is_small = true;
        read(shared.state, s);
        read(shared.error, error);
        for (int64 i = begin; i < end; i += C) {
            load(i, end, x);
#pragma unroll
            for (int c = 0; c < C; ++c)
                if (i + c < end) {
                    Cell cell;
                    cell.begin(x[c], a, p, s);
                    cell.jacobian(a, p, s, j[c]);
                    cell.after(s, s);
                    is_small = pass_error_on(j[c], s, error) && is_small;
                    store(i + c, s);
                }
        }
        write(shared.state, s);
        write(shared.error, error);
        return is_small;
    }

    // Solves the window of steps [start, start + count); returns 2 passes + (1 if finished step by step); is_small is
    // as above.
    INLINE int32 solve(int64 start, int count, bool& is_small) {
        begin(start, count);
        int done = 0;
        int64 passes = 0;
        Real before = 0;
        while (done < count && passes < options.max_steps) {
            const Progress progress = pass(done, count);
            done = progress.final_steps;
            ++passes;
            if (progress.change - progress.change != 0) break;
            if (passes > 1 && !(progress.change < kGrowth * before)) break;
            before = progress.change;
        }
        const bool is_exact = options.rtol == 0 && options.atol == 0; // no tolerance, so no error that could grow
        const bool are_small = errors_are_small(done);
#pragma unroll
        for (int c = 0; c < C; ++c)
            if (index(c) < done) {
                store(start + index(c), y[c]);
                if (index(c) == done - 1) write(shared.state, y[c]);
            }
        block_barrier();
        is_small = is_exact || are_small;
        if (done < count) {
            const bool bad = threadIdx.x < U && !loop(start + done, start + count);
            const bool any = any_lane(bad);
            if (threadIdx.x == 0) shared.flag[0] = any;
            block_barrier();
            is_small = is_exact || (are_small && !shared.flag[0]);
        }
        return int32(2 * passes + (done < count));
    }

    // Solves all windows of the row.
    INLINE void run(const Real* first, Real* last, int32* counts) {
        Real s[S], zero[S] = {};
        place.load_state(first, s);
        if (place.k == 0) {
            write(shared.state, s);
            write(shared.error, zero);
        }
        block_barrier();
        bool is_small = true;
        for (int64 i = 0; i < place.length && is_small; i += options.window) {
            const int32 count = solve(i, int(min(place.length - i, int64(options.window))), is_small);
            if (threadIdx.x == 0) counts[i / options.window] = count;
        }
        if (!is_small) {
            block_barrier();
            for (int64 i = threadIdx.x; i * options.window < place.length; i += blockDim.x) counts[i] |= 1;
            if (place.k == 0) {
                write(shared.state, s);
                loop(0, place.length);
            }
        }
        block_barrier();
        read(shared.state, s);
        if (place.k == 0 && place.is_here)
            for (int n = 0; n < S; ++n) last[place.state(n)] = s[n];
        for (int n = 0; n < S; ++n) place.pad(states[n]);
    }
};
