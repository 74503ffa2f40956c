// Clustered CSR and dense matrices, relaxed row by row.
#include "relax/read.hpp"
#include "relax/sweeps.hpp"

namespace fastiter::relax {
namespace {

template <class A, class V> struct CsrLayout : InClusters {
    int64_t n = 0, rows = 0, entries = 0;
    std::vector<int32_t> order;
    std::vector<int64_t> cluster_entry, chunk_entry;
    Block<int32_t> length, column;
    Block<A> value, before, after, diagonal;
    Block<sum_of<V>> inverse;
    CsrMatrix<A, V> m;

    int64_t chunks() const { return int64_t(chunk_entry.size()) - 1; }
    void sweep(const RelaxStep<V>& step, int64_t colour, Team team) const {
        this->sweep_by(kernels().of<KernelsOf<A, V>>().csr, m, step, colour, team);
    }
    void residual(const RelaxResidual<V>& r, int64_t first, int64_t last) const {
        kernels().of<KernelsOf<A, V>>().csr_residual(m, r, first, last);
    }
};

template <class A, class V> void fill_rows(CsrLayout<A, V>& m, const Csr<A>& csr, Part part, int64_t batch) {
    const int64_t width = batch ? batch : 1, nonzeros = csr.start[csr.n];
    RowReader<A> reader(csr);
    int64_t entry = 0;
    size_t cluster = 0;
    auto put = [&](const Block<A>& to, int64_t place, int64_t from) {
        for (int64_t c = 0; c < width; ++c) to[place * width + c] = from < 0 ? A{} : csr.value[c * nonzeros + from];
    };
    for (int64_t i = 0; i < csr.n; ++i) {
        if (i % kChunkRows == 0) m.chunk_entry.push_back(entry);
        while (m.clusters.rows[cluster + 1] <= i) ++cluster;
        if (m.clusters.rows[cluster] == i) m.cluster_entry.push_back(entry);
        const int64_t first = m.clusters.rows[cluster], last = m.clusters.rows[cluster + 1], begin = entry;
        int64_t diagonal = -1, before = -1, after = -1;
        for (const Entry& e : reader.read(i)) {
            if (e.column == i)
                diagonal = e.at;
            else if (!is_in(part, e.column, i))
                continue;
            else if (e.column == i - 1 && i > first)
                before = e.at;
            else if (e.column == i + 1 && i + 1 < last)
                after = e.at;
            else {
                m.column[entry] = e.column;
                put(m.value, entry++, e.at);
            }
        }
        m.length[i] = int32_t(entry - begin);
        put(m.before, i, before);
        put(m.after, i, after);
        put(m.diagonal, i, diagonal);
        for (int64_t c = 0; c < width; ++c) {
            const auto d = wide(m.diagonal[i * width + c]);
            if (is_zero(d)) throw SingularRow(csr.order ? csr.order[i] : i, c);
            m.inverse[i * width + c] = inverse_of(d);
        }
    }
    m.chunk_entry.push_back(entry);
    m.cluster_entry.push_back(entry);
    m.entries = entry + csr.n;
}

template <class A, class V> struct DenseLayout {
    int64_t n = 0, rows = 0, entries = 0;
    std::vector<int32_t> order, sequence; // the vectors keep the caller's order: `order` stays empty
    Block<A> value;
    Block<sum_of<V>> inverse;
    DenseMatrix<A, V> m;

    int64_t colours() const { return 1; }
    int64_t chunks() const { return (n + kChunkRows - 1) / kChunkRows; }
    bool is_serial(int64_t k, bool jacobi) const { return !jacobi && k <= 8; }
    void sweep(const RelaxStep<V>& step, int64_t, Team team) const {
        const auto& kernel = kernels().of<KernelsOf<A, V>>();
        if (step.y != step.x) {
            const auto [first, last] = part_of(0, n, team);
            return kernel.dense(m, step, first, last, 0, step.k);
        }
        const auto [column, end] = tiles_of(step.k, team);
        if (column < end) kernel.dense(m, step, 0, n, column, end - column);
    }
    void residual(const RelaxResidual<V>& r, int64_t first, int64_t last) const {
        kernels().of<KernelsOf<A, V>>().dense_residual(m, r, first, last);
    }
};

} // namespace

template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_rows(const Csr<A>& csr, const Clusters& clusters, Part part, int64_t batch) {
    CsrLayout<A, V> m;
    const int64_t n = csr.n, width = batch ? batch : 1;
    m.n = m.rows = n;
    if (csr.order) m.order.assign(csr.order, csr.order + n);
    m.clusters = clusters;
    m.length = Block<int32_t>(n);
    m.column = Block<int32_t>(csr.start[n]);
    m.value = Block<A>(csr.start[n] * width);
    m.before = Block<A>(n * width);
    m.after = Block<A>(n * width);
    m.diagonal = Block<A>(n * width);
    m.inverse = Block<sum_of<V>>(n * width);
    fill_rows(m, csr, part, batch);
    m.m = {n,
           m.clusters.rows.data(),
           m.cluster_entry.data(),
           m.chunk_entry.data(),
           m.length.data(),
           m.column.data(),
           m.value.data(),
           m.before.data(),
           m.after.data(),
           m.diagonal.data(),
           m.inverse.data(),
           batch > 0};
    return std::make_unique<Relaxed<V, CsrLayout<A, V>>>(std::move(m));
}

template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_dense(int64_t n, const A* value, const int32_t* order) {
    DenseLayout<A, V> m;
    m.n = m.rows = n;
    m.entries = n * n;
    m.value = Block<A>(n * n);
    m.inverse = Block<sum_of<V>>(n);
    std::copy(value, value + n * n, m.value.data());
    if (order) m.sequence.assign(order, order + n);
    for (int64_t i = 0; i < n; ++i) {
        const auto d = wide(value[i * n + i]);
        if (is_zero(d)) throw SingularRow(i);
        m.inverse[i] = inverse_of(d);
    }
    m.m = {n, m.value.data(), order ? m.sequence.data() : nullptr, m.inverse.data()};
    return std::make_unique<Relaxed<V, DenseLayout<A, V>>>(std::move(m));
}

#define FASTITER_INSTANTIATE(A, V)                                                                           \
    template std::unique_ptr<RelaxMatrix> prepare_rows<A, V>(const Csr<A>&, const Clusters&, Part, int64_t); \
    template std::unique_ptr<RelaxMatrix> prepare_dense<A, V>(int64_t, const A*, const int32_t*);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::relax
