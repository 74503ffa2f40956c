// The pattern of a sparse matrix: whether it is one, and which of its rows are linked.
#pragma once
#include "cpu/relax_kernels.hpp"
#include <cstdint>
#include <vector>

namespace fastiter {

struct Pattern {
    int64_t n = 0;
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
};

// Colours such that no two linked rows share one: i and j are linked if either has an entry in the column of the other.
// Each row in turn gets the least that is free. Returns their number.
int64_t colour_first_fit(const Pattern&, int32_t* colour);

// The same for rows that are linked if they have entries in one column, of a pattern with so many columns
int64_t colour_disjoint(const Pattern&, int64_t columns, int32_t* colour);

// Two colours, the first row of each connected part having the first. Returns -1, or a row that lies on an odd cycle.
int64_t colour_red_black(const Pattern&, int32_t* colour);

// Whether rows that share a colour are not linked: -1, or a row that is linked to one of its colour
int64_t check_colours(const Pattern&, const int32_t* colour);

// The pattern of clusters of `size` consecutive rows each
void quotient(const Pattern&, int64_t size, std::vector<int64_t>& start, std::vector<int32_t>& column);

enum class Fault { none, unsorted, pointers, column, not_finite };
// The first row with the worst fault. Unsorted: columns that do not increase, twice the same included
template <class A> Fault check_matrix(const Pattern&, int64_t columns, int64_t entries, const A* value, int64_t* row);

} // namespace fastiter
