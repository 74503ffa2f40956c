// The sparsity pattern of a matrix: validation, and graph colouring of its rows.
#pragma once
#include "relax/cpu/kernels.hpp"
#include <cstdint>
#include <vector>

namespace fastiter::relax {

struct Pattern {
    int64_t n = 0;
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
};

// Greedy first-fit colouring: linked rows have different colours, where i and j are linked if either has an entry in
// the other's column. Returns the number of colours.
int64_t colour_first_fit(const Pattern&, int32_t* colour);

// The same, where rows are linked if they have entries in a common column; the pattern has `columns` columns.
int64_t colour_disjoint(const Pattern&, int64_t columns, int32_t* colour);

// Colours with two colours, where the first row of each connected component has colour 0. Returns -1, or a row on an
// odd cycle.
int64_t colour_red_black(const Pattern&, int32_t* colour);

// Checks that rows of one colour are not linked: returns -1, or a row that is linked to one of its own colour.
int64_t check_colours(const Pattern&, const int32_t* colour);

// The pattern of clusters of `size` consecutive rows each
void quotient(const Pattern&, int64_t size, std::vector<int64_t>& start, std::vector<int32_t>& column);

enum class Fault { none, unsorted, pointers, column, not_finite };
// Returns the worst fault and its first row. Unsorted: columns not strictly increasing, which includes duplicates.
template <class A> Fault check_matrix(const Pattern&, int64_t columns, int64_t entries, const A* value, int64_t* row);

} // namespace fastiter::relax
