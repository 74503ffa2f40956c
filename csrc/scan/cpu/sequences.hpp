// Shared by the scan kernels: addresses of a sequence's steps, and their distribution over threads.
#pragma once
#include "core/cpu/simd.hpp"
#include "scan/cpu/kernels.hpp"

namespace fastiter::scan::FASTITER_LEVEL {

template <class S> void linear_scan(const LinearScan<S>&, Team);
template <class S> size_t linear_scan_gradient_workspace(const LinearScanGradient<S>&);
template <class S> void linear_scan_gradient(const LinearScanGradient<S>&, Team);
template <class T> void block_scan(const BlockScan<T>&, Team);
template <class T> size_t block_scan_gradient_workspace(const BlockScanGradient<T>&);
template <class T> void block_scan_gradient(const BlockScanGradient<T>&, Team);

// The state of a column block fits the second-level cache; wide blocks keep memory accesses contiguous, at full
// bandwidth.
constexpr int64_t kWidestBytes = 65536;
// Column blocks up to this size are prefetched into the second-level cache one step ahead, as hardware prefetching does
// not follow them.
constexpr int64_t kPieceBytes = 16384;

// A sequence: steps [start, start + steps) of a row
struct Sequence {
    int64_t index, row, start, steps;
};

FASTITER_INLINE Sequence sequence(const ScanShape& s, int64_t i) {
    if (s.starts) return {i, 0, s.starts[i], s.starts[i + 1] - s.starts[i]};
    return {i, i, 0, s.lengths ? s.lengths[i] : s.T};
}

// Real numbers per step
FASTITER_INLINE int64_t columns_of(const ScanShape& s) { return s.complex ? 2 * s.D : s.D; }

// Whether arrays over all steps exceed the caches, so that they are evicted before they are read again. Results that are
// columns of a larger array count as that array: calls for its other columns follow before they are read.
template <class S>
FASTITER_INLINE bool exceeds_caches(const ScanShape& s, const Lines<S>& results, int64_t per_number = 1) {
    const int64_t rows = s.starts ? 1 : s.B, columns = columns_of(s) * per_number;
    const int64_t from_row = max_of(results.row, -results.row), from_step = max_of(results.time, -results.time);
    const int64_t extent = (rows - 1) * from_row + (s.T - 1) * from_step + columns;
    return max_of(rows * s.T * columns, extent) * int64_t(sizeof(S)) > kCached;
}

template <class S> FASTITER_INLINE S* at(const Lines<S>& lines, const Sequence& q, int64_t step, int64_t column) {
    return lines.data ? lines.data + q.row * lines.row + (q.start + step) * lines.time + column : nullptr;
}

// For lambdas that must be inlined into the loop that calls them
#define FASTITER_INLINED __attribute__((always_inline))

// Interleaves several narrow sequences, kTurn steps each, to overlap their latency; each array is accessed several
// cache lines at a time.
constexpr int64_t kTurn = 8;

template <class S> FASTITER_INLINE void fetch(const S* p) { __builtin_prefetch(p, 0, 2); }

// Steps of a sequence between two polls for a request to stop; a multiple of the steps of a partial sum
constexpr int64_t kStepsPerCheck = 1 << 12;

// Calls f(column, count) for each vector of a row; count is a compile-time constant for whole vectors. A loop that runs
// backwards in time also traverses each row backwards: the hardware prefetcher then sees one stream of descending
// addresses. Ascending rows in descending order were read at a fifth of the speed.
template <class T, class F> FASTITER_INLINE void for_vectors(int64_t width, bool backwards, F f) {
    constexpr int64_t W = lanes<T>;
    const int64_t whole = width / W;
    if (width % W) f(whole * W, width % W);
    int64_t c = backwards ? (whole - 1) * W : 0;
    const int64_t step = backwards ? -W : W;
    for (int64_t i = 0; i < whole; ++i, c += step) f(c, int64_t(W));
}
template <class T, class F> FASTITER_INLINE void for_vectors(int64_t width, F f) { for_vectors<T>(width, false, f); }

// Numbers in a row of results before the first address that allows a streaming store; 0 if there is none, or if the
// vectors would then split a group of numbers. NumPy's large arrays begin 16 bytes after a cache line.
template <class T, class S> FASTITER_INLINE int64_t numbers_before_line(const S* row, int64_t width, int64_t group) {
    const int64_t before = -int64_t(reinterpret_cast<uintptr_t>(row) / sizeof(S)) & (lanes<T> - 1);
    return before % group == 0 && before + lanes<T> <= width ? before : 0;
}

// As for_vectors, where the first vector has only `before` numbers.
template <class T, class F> FASTITER_INLINE void for_vectors_after(int64_t before, int64_t width, bool backwards, F f) {
    if (before) f(int64_t(0), before);
    for_vectors<T>(width - before, backwards, [&](int64_t c, int64_t n) FASTITER_INLINED { f(before + c, n); });
}

// Prefetch distance, in numbers. On Intel's processors streaming stores slow the hardware prefetcher: one stream that
// is read and written with software prefetches 0.5 to 8 KB ahead takes two thirds of the time that it takes without.
constexpr int64_t kAheadBytes = 2048;
template <class S> FASTITER_INLINE int64_t ahead(int64_t step, int64_t width) {
    const int64_t row = width * int64_t(sizeof(S)), way = step < 0 ? -1 : 1;
    if (step == way * width || row > kPieceBytes) return way * kAheadBytes / int64_t(sizeof(S));
    return step * ceil_div(kAheadBytes / 2, max_of(row, 1));
}

template <class T> FASTITER_INLINE void fill_zero(T* p, int64_t n) {
    for (int64_t i = 0; i < n; i += lanes<T>) store_up_to(p + i, vec<T>{}, n - i);
}

// Initialises the state before the first step; nullptr = 0.
template <class T> FASTITER_INLINE void begin_state(const T* first, T* state, int64_t width) {
    if (!first) return fill_zero(state, width);
    for_vectors<T>(width,
                   [&](int64_t c, int64_t n) FASTITER_INLINED { store_up_to(state + c, load_up_to(first + c, n), n); });
}

// Clears the padding.
template <class S>
void zero_padding(const ScanShape& s, const Lines<S>& lines, const Sequence& q, int64_t column, int64_t n) {
    if (!lines.data || s.starts) return;
    for (int64_t t = q.steps; t < s.T; ++t) fill_zero(at(lines, q, t, column), n);
}

// Work units: unit u is column block u % blocks of sequence u / blocks. Each thread has consecutive units with about
// the same number of steps.
struct Units {
    int64_t width, blocks, first = 0, last = 0;

    Units(const ScanShape& s, int64_t columns, int64_t widest, int64_t line, Team team) {
        const int64_t parts =
            max_of(ceil_div(columns, widest), s.B < team.size ? ceil_div(team.size, max_of(s.B, 1)) : 1);
        width = round_up(ceil_div(columns, parts), line);
        blocks = ceil_div(columns, width);
        int64_t total = 0;
        for (int64_t i = 0; i < s.B; ++i) total += weight(s, i);
        const int64_t begin = total * blocks * team.id / team.size, end = total * blocks * (team.id + 1) / team.size;
        int64_t passed = 0;
        for (int64_t u = 0; u < s.B * blocks; ++u) {
            first += passed < begin;
            last += passed < end;
            passed += weight(s, u / blocks);
        }
    }

private:
    // Padding is written but not read.
    static int64_t weight(const ScanShape& s, int64_t i) { return 1 + 2 * sequence(s, i).steps + (s.starts ? 0 : s.T); }
};

// Arithmetic on numbers stored as S
template <class S, bool Complex> struct Numbers {
    using T = accumulate_t<S>;
    static FASTITER_INLINE vec<T> product(vec<T> a, vec<T> b) {
        if constexpr (Complex)
            return complex_product<T, false>(a, b);
        else
            return a * b;
    }
    static FASTITER_INLINE vec<T> conjugate_product(vec<T> a, vec<T> b) {
        if constexpr (Complex)
            return complex_product<T, true>(a, b);
        else
            return a * b;
    }
};

// out = sum of the `count` rows of sums, in order, once all threads have written theirs
template <class T> void add_sequences(const T* sums, int64_t count, int64_t columns, T* out, Team team) {
    wait(team.barriers[0], team.size);
    const int64_t share = round_up(ceil_div(columns, team.size), lanes<T>);
    const int64_t from = min_of(columns, team.id * share), to = min_of(columns, from + share);
    for (int64_t c = from; c < to; c += lanes<T>) {
        vec<T> sum{};
        for (int64_t i = 0; i < count; ++i) sum += load_up_to(sums + i * columns + c, to - c);
        store_up_to(out + c, sum, to - c);
    }
}

} // namespace fastiter::scan::FASTITER_LEVEL
