// SELL matrices, relaxed eight rows at a time, and the rows of Kaczmarz projections.
#include "core/rows.hpp"
#include "relax/read.hpp"
#include "relax/sweeps.hpp"

namespace fastiter::relax {
namespace {

template <class A, class V> struct SellLayout {
    int64_t n = 0, rows = 0, entries = 0;
    std::vector<int32_t> order;         // -1: padding rows without entries, up to whole slices
    std::vector<int64_t> colour, start; // in slices
    Block<int32_t> run, column;
    Block<A> value, diagonal;
    Block<sum_of<V>> inverse;
    SellMatrix<A, V> m;

    int64_t colours() const { return int64_t(colour.size()) - 1; }
    int64_t chunks() const { return (n + kChunkRows - 1) / kChunkRows; }
    bool is_serial(int64_t, bool) const { return false; }
    // Partitions a colour into shares with equal numbers of entries, not of slices.
    void sweep(const RelaxStep<V>& step, int64_t c, Team team) const {
        const int64_t first = colour[size_t(c)], last = colour[size_t(c) + 1];
        auto boundary = [&](int id) {
            return first_of_part(first, last, id, team.size, [&](int64_t k) { return start[size_t(k)] + k; });
        };
        kernels().of<KernelsOf<A, V>>().sell(m, step, boundary(team.id), boundary(team.id + 1));
    }
    void residual(const RelaxResidual<V>& r, int64_t first, int64_t last) const {
        kernels().of<KernelsOf<A, V>>().sell_residual(m, r, first, last);
    }
};

// SELL-C-sigma sorting: if the rows of a colour differ much in length, sorts them by length within windows, so that
// neighbours in the matrix stay near in memory. A colour is order[first] to order[last - 1].
template <class A> void sort_by_length(const Csr<A>& csr, std::vector<int32_t>& order, int64_t first, int64_t last) {
    constexpr int64_t kWindow = 512;
    auto length = [&](int32_t row) { return csr.start[row + 1] - csr.start[row]; };
    int64_t stored = 0, wanted = 0;
    for (int64_t begin = first; begin < last; begin += kSliceRows) {
        int64_t longest = 0;
        const int64_t end = std::min(last, begin + kSliceRows);
        for (int64_t i = begin; i < end; ++i) {
            longest = std::max(longest, length(order[size_t(i)]));
            wanted += length(order[size_t(i)]);
        }
        stored += longest * kSliceRows;
    }
    if (stored <= wanted + wanted / 4 + 64) return;
    for (int64_t begin = first; begin < last; begin += kWindow)
        std::stable_sort(order.begin() + begin, order.begin() + std::min(last, begin + kWindow),
                         [&](int32_t a, int32_t b) { return length(a) > length(b); });
}

// The order of the copy, with each colour padded to whole slices; empty if it equals the caller's order.
template <class A>
std::vector<int32_t> padded_order(const Csr<A>& csr, const std::vector<int64_t>& colours,
                                  std::vector<int64_t>& slices) {
    std::vector<int32_t> order(size_t(csr.n)), padded;
    for (int64_t i = 0; i < csr.n; ++i) order[size_t(i)] = csr.order ? csr.order[i] : int32_t(i);
    slices.assign(1, 0);
    for (size_t c = 0; c + 1 < colours.size(); ++c) {
        sort_by_length(csr, order, colours[c], colours[c + 1]);
        padded.insert(padded.end(), order.begin() + colours[c], order.begin() + colours[c + 1]);
        if (colours.size() > 2) padded.resize((padded.size() + kSliceRows - 1) / kSliceRows * kSliceRows, -1);
        slices.push_back((int64_t(padded.size()) + kSliceRows - 1) / kSliceRows);
    }
    for (size_t i = 0; i < padded.size(); ++i)
        if (padded[i] != int32_t(i)) return padded;
    return {};
}

template <class A, class V> class SlicesFiller {
public:
    SlicesFiller(SellLayout<A, V>& m, const Csr<A>& csr, Part part) : m_(m), csr_(csr), part_(part) {
        place_.resize(size_t(csr.n));
        for (int64_t i = 0; i < m.n; ++i)
            if (row_of(i) >= 0) place_[size_t(row_of(i))] = int32_t(i);
    }

    void fill() {
        const int64_t slices = (m_.n + kSliceRows - 1) / kSliceRows;
        m_.start.assign(1, 0);
        for (int64_t s = 0; s < slices; ++s) {
            int64_t longest = 0;
            for (int64_t i = s * kSliceRows; i < std::min(m_.n, (s + 1) * kSliceRows); ++i) {
                read(i);
                longest = std::max(longest, int64_t(row_.size()));
            }
            m_.start.push_back(m_.start.back() + longest);
        }
        m_.run = Block<int32_t>(m_.start.back());
        m_.value = Block<A>(m_.start.back() * kSliceRows);
        for (int64_t s = 0; s < slices; ++s) {
            slice_.resize(size_t(m_.start[size_t(s) + 1] - m_.start[size_t(s)]));
            for (int lane = 0; lane < kSliceRows; ++lane) fill_lane(s, lane);
            for (size_t j = 0; j < slice_.size(); ++j) m_.run[m_.start[size_t(s)] + int64_t(j)] = run_of(slice_[j]);
        }
        m_.column = Block<int32_t>(int64_t(columns_.size()));
        std::copy(columns_.begin(), columns_.end(), m_.column.data());
        m_.entries = m_.start.back() * kSliceRows + m_.n;
    }

private:
    struct Eight {
        int32_t column[kSliceRows];
    };

    // Index of the first column if the eight are consecutive; otherwise appends them to the column list and returns the
    // complement of their position.
    int32_t run_of(const Eight& entries) {
        bool is_run = true;
        for (int i = 0; i < kSliceRows; ++i) is_run = is_run && entries.column[i] == entries.column[0] + i;
        if (is_run) return entries.column[0];
        columns_.insert(columns_.end(), entries.column, entries.column + kSliceRows);
        return int32_t(~(int64_t(columns_.size()) / kSliceRows - 1));
    }

    int32_t row_of(int64_t i) const { return m_.order.empty() ? int32_t(i) : m_.order[size_t(i)]; }

    // Reads the off-diagonal entries, sorted by column; returns the index of the diagonal entry, or -1.
    int64_t read(int64_t i) {
        const int32_t row = row_of(i);
        int64_t diagonal = -1;
        row_.clear();
        if (row < 0) return diagonal;
        for (int64_t e = csr_.start[row]; e < csr_.start[row + 1]; ++e) {
            const int32_t column = place_[size_t(csr_.column[e])];
            if (column == i)
                diagonal = e;
            else if (is_in(part_, column, i))
                row_.push_back({column, e});
        }
        if (!m_.order.empty())
            std::sort(row_.begin(), row_.end(), [](const Entry& a, const Entry& b) { return a.column < b.column; });
        return diagonal;
    }

    void fill_lane(int64_t slice, int lane) {
        const int64_t i = slice * kSliceRows + lane, first = m_.start[size_t(slice)],
                      last = m_.start[size_t(slice) + 1];
        row_.clear();
        const int64_t diagonal = i < m_.n ? read(i) : -1;
        const int32_t spare = row_.empty() ? int32_t(std::min(i, m_.n - 1)) : row_[0].column;
        for (int64_t j = first; j < last; ++j) {
            const bool is_entry = size_t(j - first) < row_.size();
            slice_[size_t(j - first)].column[lane] = is_entry ? row_[size_t(j - first)].column : spare;
            m_.value[j * kSliceRows + lane] = is_entry ? csr_.value[row_[size_t(j - first)].at] : A{};
        }
        if (i >= m_.n) return;
        m_.diagonal[i] = diagonal < 0 ? A{} : csr_.value[diagonal];
        m_.inverse[i] = {};
        if (row_of(i) < 0) return;
        if (is_zero(wide(m_.diagonal[i]))) throw SingularRow(row_of(i));
        m_.inverse[i] = inverse_of(wide(m_.diagonal[i]));
    }

    SellLayout<A, V>& m_;
    const Csr<A>& csr_;
    Part part_;
    std::vector<int32_t> place_, columns_;
    std::vector<Entry> row_;
    std::vector<Eight> slice_;
};

template <class A, class V> struct KaczmarzLayout {
    int64_t n = 0, entries = 0;
    std::vector<int32_t> order;
    std::vector<int64_t> start;
    Block<int32_t> column;
    Block<A> value;
    Block<double> inverse;
    Block<sum_of<V>> inverses; // for a batch
    KaczmarzMatrix<A, V> m;
};

void assign_twice(double& to, double x) { to = x; }
void assign_twice(Complex& to, double x) { to = {x, x}; }
double square(double x) { return x * x; }
double square(Complex x) { return x.re * x.re + x.im * x.im; }

// Not a Relaxed, as x has `columns` rows and b has n.
template <class A, class V> class Projections : public RelaxMatrix {
public:
    Projections(KaczmarzLayout<A, V> layout) : m_(std::move(layout)) {
        m_.m = {m_.n,
                m_.start.data(),
                m_.column.data(),
                m_.value.data(),
                m_.inverse.data(),
                m_.inverses.size() ? m_.inverses.data() : nullptr};
    }

    void sweep(void* x, const void* b, void*, int64_t k, const Sweeps& sweeps) override {
        V* const to = static_cast<V*>(x);
        const V* const own_b = permuted(static_cast<const V*>(b), k);
        auto kernel = [&](Team team) {
            const auto [column, end] = tiles_of(k, team);
            if (column == end) return;
            for (int64_t s = 0; s < sweeps.count; ++s)
                for (int half = 0; half < (sweeps.kind == SweepKind::symmetric ? 2 : 1); ++half) {
                    RelaxStep<V> step{own_b, to, to, nullptr, k, sweeps.omega[s], 0, false};
                    step.backward = half == 1 || sweeps.kind == SweepKind::backward;
                    kernels().of<KernelsOf<A, V>>().kaczmarz(m_.m, step, column, end - column);
                }
        };
        launch(kernel, [&](int threads) { return threads_for((k + 7) / 8, 1, threads); });
    }

    void residual(const void* x, const void* b, void* r, int64_t k, double* norms) override {
        const V* own_b = permuted(static_cast<const V*>(b), k);
        const int64_t chunks = (m_.n + kChunkRows - 1) / kChunkRows;
        std::vector<double> parts(size_t(chunks * k));
        std::vector<V> own_r(r && !m_.order.empty() ? size_t(m_.n * k) : 0);
        V* to = own_r.empty() ? static_cast<V*>(r) : own_r.data();
        const RelaxResidual<V> step{own_b, static_cast<const V*>(x), to, k, parts.data()};
        kernels().of<KernelsOf<A, V>>().kaczmarz_residual(m_.m, step, 0, chunks);
        for (int64_t i = 0; i < int64_t(own_r.size()); ++i)
            static_cast<V*>(r)[m_.order[size_t(i / k)] * k + i % k] = own_r[size_t(i)];
        for (int64_t c = 0; c < k; ++c) norms[c] = 0;
        for (size_t i = 0; i < parts.size(); ++i) norms[int64_t(i) % k] += parts[i];
    }

private:
    const V* permuted(const V* b, int64_t k) {
        if (m_.order.empty()) return b;
        b_.resize(size_t(m_.n * k));
        for (int64_t i = 0; i < m_.n * k; ++i) b_[size_t(i)] = b[m_.order[size_t(i / k)] * k + i % k];
        return b_.data();
    }

    KaczmarzLayout<A, V> m_;
    std::vector<V> b_;
};

} // namespace

template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_slices(const Csr<A>& csr, const std::vector<int64_t>& colours, Part part) {
    SellLayout<A, V> m;
    m.order = padded_order(csr, colours, m.colour);
    m.n = m.order.empty() ? csr.n : int64_t(m.order.size());
    m.rows = csr.n;
    m.diagonal = Block<A>(m.n);
    m.inverse = Block<sum_of<V>>(m.n);
    SlicesFiller<A, V>(m, csr, part).fill();
    m.m = {m.n, m.start.data(), m.run.data(), m.column.data(), m.value.data(), m.diagonal.data(), m.inverse.data()};
    return std::make_unique<Relaxed<V, SellLayout<A, V>>>(std::move(m));
}

template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_kaczmarz(const Csr<A>& csr, int64_t columns, int64_t batch) {
    KaczmarzLayout<A, V> m;
    const int64_t width = batch ? batch : 1, nonzeros = csr.start[csr.n];
    m.n = csr.n;
    m.entries = nonzeros;
    m.column = Block<int32_t>(nonzeros);
    m.value = Block<A>(nonzeros * width);
    m.inverse = Block<double>(batch ? 0 : m.n);
    m.inverses = Block<sum_of<V>>(m.n * batch);
    if (csr.order) m.order.assign(csr.order, csr.order + csr.n);
    std::vector<int64_t> last_row(size_t(columns), -2);
    std::vector<double> norm(static_cast<size_t>(width));
    int64_t to = 0;
    for (int64_t i = 0; i < m.n; ++i) {
        const int64_t row = csr.order ? csr.order[i] : i;
        std::fill(norm.begin(), norm.end(), 0.0);
        m.start.push_back(to);
        for (bool shared :
             {false, true}) // entries just changed by the previous row come last: the sum need not wait for them
            for (int64_t e = csr.start[row]; e < csr.start[row + 1]; ++e) {
                if ((last_row[size_t(csr.column[e])] == i - 1) != shared) continue;
                m.column[to] = csr.column[e];
                for (int64_t c = 0; c < width; ++c) {
                    m.value[to * width + c] = csr.value[c * nonzeros + e];
                    norm[size_t(c)] += square(wide(csr.value[c * nonzeros + e]));
                }
                ++to;
            }
        for (int64_t e = csr.start[row]; e < csr.start[row + 1]; ++e) last_row[size_t(csr.column[e])] = i;
        for (int64_t c = 0; c < width; ++c) {
            const double inverse = norm[size_t(c)] > 0 ? 1 / norm[size_t(c)] : 0;
            if (batch)
                assign_twice(m.inverses[i * width + c], inverse);
            else
                m.inverse[i] = inverse;
        }
    }
    m.start.push_back(to);
    return std::make_unique<Projections<A, V>>(std::move(m));
}

#define FASTITER_INSTANTIATE(A, V)                                                                                \
    template std::unique_ptr<RelaxMatrix> prepare_slices<A, V>(const Csr<A>&, const std::vector<int64_t>&, Part); \
    template std::unique_ptr<RelaxMatrix> prepare_kaczmarz<A, V>(const Csr<A>&, int64_t, int64_t);
FASTITER_RELAX_NUMBERS(FASTITER_INSTANTIATE)

} // namespace fastiter::relax
