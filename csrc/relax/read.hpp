// Reads the rows of a matrix in the order of its permuted copy, with permuted column indices.
#pragma once
#include "relax/matrix.hpp"
#include <algorithm>

namespace fastiter::relax {

// The entries of one row of the copy, sorted by the copy's columns
struct Entry {
    int32_t column;
    int64_t at;
};

template <class A> class RowReader {
public:
    explicit RowReader(const Csr<A>& csr) : csr_(csr) {
        if (!csr.order) return;
        place_.resize(size_t(csr.n));
        for (int64_t i = 0; i < csr.n; ++i) place_[size_t(csr.order[i])] = int32_t(i);
    }
    const std::vector<Entry>& read(int64_t i) {
        const int64_t row = csr_.order ? csr_.order[i] : i;
        row_.clear();
        for (int64_t e = csr_.start[row]; e < csr_.start[row + 1]; ++e)
            row_.push_back({csr_.order ? place_[size_t(csr_.column[e])] : csr_.column[e], e});
        if (csr_.order)
            std::sort(row_.begin(), row_.end(), [](const Entry& a, const Entry& b) { return a.column < b.column; });
        return row_;
    }

private:
    const Csr<A>& csr_;
    std::vector<int32_t> place_;
    std::vector<Entry> row_;
};

inline bool is_in(Part part, int64_t column, int64_t row) {
    return part == Part::all || (part == Part::lower ? column < row : column > row);
}

} // namespace fastiter::relax
