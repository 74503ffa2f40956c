// Products of codes: rows of a are packed a chunk at a time for all threads, panels of b by the thread that uses them.
#include "quant/cpu/matmul/fixed_lanes.hpp"

namespace fastiter::quant::FASTITER_LEVEL {
namespace {

constexpr int64_t kChunkBytes = 4 << 20; // size of a packed chunk of a

// This many products of pairs sum to at most 2^30, whatever the codes.
int64_t safe_pairs(const FixedMatmul& g) {
    return int64_t(1) << max_of(0, 29 - g.a.magnitude() - g.b.magnitude() - g.plan.a_left - g.plan.b_left);
}

// `codes` codes make one packed element. `Sum` is the type of the accumulated results: 64 bits if lanes of 32 bits hold
// only partial sums.
template <class T, class Sum> class Product {
public:
    Product(const FixedMatmul& g, const Tiles<T>& tiles, const StepRules<T>& steps, int codes)
        : g_(g), tiles_(tiles), steps_(steps), is_paired_(codes == 2), lines_(ceil_div(g.K, codes)),
          depth_(sizeof(Sum) > sizeof(T) ? safe_pairs(g) : lines_), columns_(tiles.vectors * lanes<T>),
          chunk_(chunk_rows()), target_(target_of<Sum>(g.acc)) {}

    size_t workspace(int threads) const { return size_t(packed_a() + threads * panel_bytes()); }

    void run(Team team) {
        const int64_t panels = ceil_div(g_.N, columns_);
        char* base = static_cast<char*>(g_.workspace);
        T* a = reinterpret_cast<T*>(base);
        panel_ = reinterpret_cast<T*>(base + packed_a() + team.id * panel_bytes());
        for (int64_t m0 = 0; m0 < g_.M; m0 += chunk_) {
            const int64_t count = min_of(chunk_, g_.M - m0);
            const Range packs = share(count, team.id, team.size);
            if (m0 > 0) wait(team.barriers[0], team.size); // all threads have read the previous chunk
            pack_a(m0, packs, a);
            for (int64_t i = 0; team.id == 0 && i < kMaxRows * lines_; ++i) a[count * lines_ + i] = 0;
            wait(team.barriers[0], team.size);
            const bool by_panel = panels >= 2 * team.size;
            const Range mine = by_panel ? share(panels, team.id, team.size) : Range{0, panels};
            for (int64_t j = mine.begin; j < mine.end; ++j)
                run_panel(a, m0, by_panel ? Range{0, count} : packs, j * columns_);
        }
    }

private:
    int64_t chunk_rows() const {
        const int64_t fits = kChunkBytes / max_of(1, lines_ * int64_t(sizeof(T)));
        return max_of(1, min_of(g_.M, max_of(fits, 8 * kMaxRows)));
    }
    // Padding rows after the last one, for a tile that is not full.
    int64_t packed_a() const { return round_up((chunk_ + kMaxRows) * lines_ * int64_t(sizeof(T)), 64); }
    int64_t panel_bytes() const { return round_up(lines_ * columns_ * int64_t(sizeof(T)), 64); }

    void pack_a(int64_t m0, Range rows, T* a) const {
        T* out = a + rows.begin * lines_;
        const int64_t first = m0 + rows.begin, count = rows.end - rows.begin;
        if (is_paired_) // a pair has the memory layout of its two codes
            pack_rows(g_.a, g_.rows, first, count, g_.K, 2 * lines_, g_.plan.a_left, reinterpret_cast<int16_t*>(out));
        else
            pack_rows(g_.a, g_.rows, first, count, g_.K, lines_, g_.plan.a_left, out);
    }

    void run_panel(const T* a, int64_t m0, Range rows, int64_t n0) {
        const int64_t count = min_of(columns_, g_.N - n0);
        const bool is_narrow = count <= lanes<T>;
        const int64_t columns = is_narrow ? lanes<T> : columns_;
        if constexpr (sizeof(T) == 4) {
            if (is_paired_) pack_pairs(g_.b, n0, count, g_.K, g_.plan.b_left, columns, panel_);
        }
        if (!is_paired_) pack_panel(g_.b, n0, count, g_.K, g_.plan.b_left, columns, panel_);
        for (int64_t i = rows.begin; i < rows.end; i += tiles_.rows) {
            alignas(64) Sum sums[kMaxRows * kMaxVectors * lanes<T>];
            const int64_t tile_rows = min_of(tiles_.rows, rows.end - i);
            start(m0 + i, tile_rows, n0, count, columns, sums);
            run_tile(a + i * lines_, is_narrow ? tiles_.narrow : tiles_.full, columns, sums);
            finish(m0 + i, tile_rows, n0, count, columns, sums);
        }
    }

    int64_t row(int64_t i) const { return g_.rows ? g_.rows[i] : i; }

    void start(int64_t first, int64_t rows, int64_t n0, int64_t count, int64_t columns, Sum* sums) const {
        for (int64_t i = 0; i < tiles_.rows * columns; ++i) sums[i] = 0;
        if (!g_.start) return;
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t* from = g_.start + row(first + i) * g_.start_m + n0 * g_.start_n;
            for (int64_t n = 0; n < count; ++n) sums[i * columns + n] = Sum(from[n * g_.start_n]);
        }
    }

    void run_tile(const T* a, TileFunction<T> tile, int64_t columns, Sum* sums) {
        if constexpr (sizeof(Sum) == sizeof(T)) {
            tile(a, lines_, panel_, lines_, sums, steps_);
        } else {
            const int64_t size = tiles_.rows * columns;
            for (int64_t k0 = 0; k0 < lines_; k0 += depth_) {
                alignas(64) T part[kMaxRows * kMaxVectors * lanes<T>] = {};
                tile(a + k0, lines_, panel_ + k0 * columns, min_of(depth_, lines_ - k0), part, steps_);
                for (int64_t i = 0; i < size; ++i) sums[i] = Sum(uint64_t(sums[i]) + uint64_t(int64_t(part[i])));
            }
        }
    }

    void finish(int64_t first, int64_t rows, int64_t n0, int64_t count, int64_t columns, Sum* sums) const {
        if (g_.plan.wraps_once)
            for (int64_t i = 0; i < rows * columns; i += lanes<Sum>)
                store(sums + i, wrapped<Sum>(load(sums + i), target_));
        const int64_t run = g_.out_n.size[2];
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t line = g_.out_m.at(row(first + i));
            for (int64_t n = 0, next; n < count; n = next) {
                next = min_of(count, n + run - (n0 + n) % run);
                write_line(sums + i * columns + n, next - n, g_.out, g_.out_bytes, line + g_.out_n.at(n0 + n),
                           g_.out_n.stride[2]);
            }
        }
    }

    const FixedMatmul& g_;
    const Tiles<T> tiles_;
    const StepRules<T> steps_;
    const bool is_paired_;
    const int64_t lines_, depth_, columns_, chunk_;
    const Target<Sum> target_;
    T* panel_ = nullptr;
};

template <class T> StepRules<T> steps_of(const FixedMatmul& g) {
    StepRules<T> s;
    s.acc = target_of<T>(g.acc);
    s.product = target_of<T>(g.product);
    s.every = g.every;
    if constexpr (sizeof(T) > 2) {
        s.accumulate = accumulate_line<T>(rounding_of_loop(g.acc), overflow_of_loop(g.acc, g.plan.wraps_once));
        if (g.has_product)
            s.assign_products = assign_line<T>(rounding_of_loop(g.product), overflow_of_loop(g.product, false));
        s.product_left = int(max_of(0, -g.acc.shift));
    }
    return s;
}

// Calls f with the implementation that the plan selects.
template <class F> auto with_product(const FixedMatmul& g, F&& f) {
    const Rounding r = rounding_of_loop(g.acc);
    const Overflow o = overflow_of_loop(g.acc, g.plan.wraps_once);
    switch (g.plan.path) {
    case FixedPath::pairs:
        if (g.acc.width > 32) return f(Product<int32_t, int64_t>(g, pair_tiles(), steps_of<int32_t>(g), 2));
        return f(Product<int32_t, int32_t>(g, pair_tiles(), steps_of<int32_t>(g), 2));
    case FixedPath::fused16:
        return f(Product<int16_t, int16_t>(g, fused16(r, o, g.plan.product), steps_of<int16_t>(g), 1));
    case FixedPath::fused32:
        return f(Product<int32_t, int32_t>(g, fused32(r, o), steps_of<int32_t>(g), 1));
    case FixedPath::lines32:
        return f(Product<int32_t, int32_t>(g, lines<int32_t>(), steps_of<int32_t>(g), 1));
    default:
        return f(Product<int64_t, int64_t>(g, lines<int64_t>(), steps_of<int64_t>(g), 1));
    }
}

constexpr int64_t kConverted = 256; // codes per block

void convert_block(const FixedConvert& c, AssignLine<int64_t> assign, const Target<int64_t>& t, int64_t i) {
    alignas(64) int64_t codes[kConverted] = {};
    const int64_t count = min_of(kConverted, c.n - i);
    FixedCodes in;
    in.data = static_cast<const char*>(c.in) + i * c.in_bytes;
    in.bytes = c.in_bytes;
    in.is_signed = c.in_signed;
    in.k.size[2] = count;
    in.k.stride[2] = 1;
    pack_rows(in, nullptr, 0, 1, count, count, int(max_of(0, -c.target.shift)), codes);
    assign(codes, ceil_div(count, lanes<int64_t>), t);
    write_line(codes, count, c.out, c.out_bytes, i, 1);
}

} // namespace

size_t matmul_workspace(const FixedMatmul& g, int threads) {
    if (g.plan.path == FixedPath::wide) return 0;
    return with_product(g, [&](const auto& product) { return product.workspace(threads); });
}

void matmul(const FixedMatmul& g, Team team) {
    if (g.M == 0 || g.N == 0) return;
    if (g.plan.path == FixedPath::wide) return wide_matmul(g, team);
    with_product(g, [&](auto product) { product.run(team); });
}

void convert(const FixedConvert& c, Team team) {
    const Range blocks = share(ceil_div(c.n, kConverted), team.id, team.size);
    if (!c.is_narrow) return wide_convert(c, {blocks.begin * kConverted, min_of(c.n, blocks.end * kConverted)});
    const Target<int64_t> t = target_of<int64_t>(c.target);
    const AssignLine<int64_t> assign =
        assign_line<int64_t>(rounding_of_loop(c.target), overflow_of_loop(c.target, false));
    for (int64_t i = blocks.begin; i < blocks.end; ++i) convert_block(c, assign, t, i * kConverted);
}

const FixedKernels fixed_kernels = {matmul_workspace, matmul, convert};

} // namespace fastiter::quant::FASTITER_LEVEL
