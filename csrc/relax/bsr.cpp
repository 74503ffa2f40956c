// BSR matrices with inverted diagonal blocks.
#include "relax/read.hpp"
#include "relax/sweeps.hpp"
#include <cmath>
#include <limits>

namespace fastiter::relax {
namespace {

template <class A, class V> struct BsrLayout : InClusters {
    int64_t n = 0, rows = 0, entries = 0; // n: vector rows including padding; rows: without padding
    int64_t blocks = 0;
    int size = 1;
    std::vector<int32_t> order; // order of the vector rows
    std::vector<int64_t> start;
    Block<int32_t> column;
    Block<A> value, diagonal;
    Block<sum_of<V>> inverse;
    BsrMatrix<A, V> m;

    int64_t chunks() const { return (blocks + kChunkRows - 1) / kChunkRows; }
    void sweep(const RelaxStep<V>& step, int64_t colour, Team team) const {
        this->sweep_by(kernels().of<KernelsOf<A, V>>().bsr, m, step, colour, team);
    }
    void residual(const RelaxResidual<V>& r, int64_t first, int64_t last) const {
        kernels().of<KernelsOf<A, V>>().bsr_residual(m, r, first, last);
    }
};

double size_of(double x) { return std::abs(x); }
double size_of(Complex x) { return std::hypot(x.re, x.im); }
double times(double a, double b) { return a * b; }
Complex times(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
double less(double a, double b) { return a - b; }
Complex less(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
double one(double) { return 1; }
Complex one(Complex) { return {1, 0}; }

// Inverts a (size, size), which is destroyed, into the row-major `inverse`: Gauss-Jordan with partial pivoting. Returns
// false if a is singular to working precision.
template <class S> bool invert(S* a, S* inverse, int size) {
    double largest = 0;
    for (int i = 0; i < size * size; ++i) {
        largest = std::max(largest, size_of(a[i]));
        inverse[i] = i % (size + 1) ? S{} : one(S{});
    }
    const double smallest = largest * size * std::numeric_limits<double>::epsilon();
    for (int p = 0; p < size; ++p) {
        int pivot = p;
        for (int i = p + 1; i < size; ++i)
            if (size_of(a[i * size + p]) > size_of(a[pivot * size + p])) pivot = i;
        if (!(size_of(a[pivot * size + p]) > smallest)) return false;
        for (int j = 0; j < size; ++j) {
            std::swap(a[p * size + j], a[pivot * size + j]);
            std::swap(inverse[p * size + j], inverse[pivot * size + j]);
        }
        const S scale = inverse_of(a[p * size + p]);
        for (int j = 0; j < size; ++j) {
            a[p * size + j] = times(scale, a[p * size + j]);
            inverse[p * size + j] = times(scale, inverse[p * size + j]);
        }
        for (int i = 0; i < size; ++i) {
            const S factor = a[i * size + p];
            if (i == p || is_zero(factor)) continue;
            for (int j = 0; j < size; ++j) {
                a[i * size + j] = less(a[i * size + j], times(factor, a[p * size + j]));
                inverse[i * size + j] = less(inverse[i * size + j], times(factor, inverse[p * size + j]));
            }
        }
    }
    return true;
}

// Transposes a row-major block, matrix c of a batch of `width`, to a column-major one with `width` values per entry.
template <class A> void transpose(const A* from, A* to, int size, int64_t width, int64_t c) {
    for (int r = 0; r < size; ++r)
        for (int q = 0; q < size; ++q) to[(q * size + r) * width + c] = from[r * size + q];
}

template <class A, class V> void fill_blocks(BsrLayout<A, V>& m, const Csr<A>& csr, int64_t width) {
    const int size = m.size;
    const int64_t area = int64_t(size) * size, blocks = csr.start[csr.n];
    const size_t numbers = size_t(area);
    std::vector<sum_of<V>> copy(numbers), inverse(numbers);
    RowReader<A> reader(csr);
    int64_t to = 0;
    for (int64_t i = 0; i < csr.n; ++i) {
        m.start.push_back(to);
        int64_t diagonal = -1;
        for (const Entry& e : reader.read(i)) {
            if (e.column == i) {
                diagonal = e.at;
                continue;
            }
            m.column[to] = e.column;
            for (int64_t c = 0; c < width; ++c)
                transpose(csr.value + (c * blocks + e.at) * area, m.value.data() + to * area * width, size, width, c);
            ++to;
        }
        const int64_t row = csr.order ? csr.order[i] : i;
        if (diagonal < 0) throw SingularRow(row);
        for (int64_t c = 0; c < width; ++c) {
            const A* block = csr.value + (c * blocks + diagonal) * area;
            transpose(block, m.diagonal.data() + i * area * width, size, width, c);
            for (int64_t j = 0; j < area; ++j) copy[size_t(j)] = wide(block[j]);
            if (!invert(copy.data(), inverse.data(), size)) throw SingularRow(row, c);
            transpose(inverse.data(), m.inverse.data() + i * area * width, size, width, c);
        }
    }
    m.start.push_back(to);
    m.entries = (to + csr.n) * area;
}

} // namespace

template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_blocks(const Csr<A>& csr, int size, int64_t rows, const Clusters& clusters,
                                            int64_t batch) {
    BsrLayout<A, V> m;
    const int64_t width = batch ? batch : 1, area = int64_t(size) * size * width, blocks = csr.start[csr.n];
    m.blocks = csr.n;
    m.n = csr.n * size;
    m.rows = rows;
    m.size = size;
    m.clusters = clusters;
    if (csr.order || rows < m.n)
        for (int64_t i = 0; i < m.n; ++i) {
            const int64_t row = (csr.order ? csr.order[i / size] : i / size) * size + i % size;
            m.order.push_back(row < rows ? int32_t(row) : -1);
        }
    m.column = Block<int32_t>(blocks);
    m.value = Block<A>(blocks * area);
    m.diagonal = Block<A>(csr.n * area);
    m.inverse = Block<sum_of<V>>(csr.n * area);
    fill_blocks(m, csr, width);
    m.m = {csr.n,           size,           m.clusters.rows.data(), m.start.data(),
           m.column.data(), m.value.data(), m.diagonal.data(),      m.inverse.data(),
           batch > 0};
    return std::make_unique<Relaxed<V, BsrLayout<A, V>>>(std::move(m));
}

#define FASTITER_INSTANTIATE(A, V) \
    template std::unique_ptr<RelaxMatrix> prepare_blocks<A, V>(const Csr<A>&, int, int64_t, const Clusters&, int64_t);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::relax
