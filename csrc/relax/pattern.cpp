#include "relax/pattern.hpp"
#include <algorithm>
#include <cmath>

namespace fastiter::relax {
namespace {

struct Transposed {
    std::vector<int64_t> start;
    std::vector<int32_t> row;
    explicit Transposed(const Pattern& p) : Transposed(p, p.n) {}
    Transposed(const Pattern& p, int64_t columns) : start(size_t(columns + 1)), row(size_t(p.start[p.n])) {
        for (int64_t e = 0; e < p.start[p.n]; ++e) ++start[size_t(p.column[e]) + 1];
        for (int64_t i = 0; i < columns; ++i) start[size_t(i) + 1] += start[size_t(i)];
        std::vector<int64_t> next(start.begin(), start.end() - 1);
        for (int64_t i = 0; i < p.n; ++i)
            for (int64_t e = p.start[i]; e < p.start[i + 1]; ++e) row[size_t(next[size_t(p.column[e])]++)] = int32_t(i);
    }
};

// Calls f(j) for every row j linked to i, possibly twice.
template <class F> void each_linked(const Pattern& p, const Transposed& t, int64_t i, F f) {
    for (int64_t e = p.start[i]; e < p.start[i + 1]; ++e)
        if (p.column[e] != i) f(int64_t(p.column[e]));
    for (int64_t e = t.start[size_t(i)]; e < t.start[size_t(i) + 1]; ++e)
        if (t.row[size_t(e)] != i) f(int64_t(t.row[size_t(e)]));
}

// each(i, f) calls f(j) for every row j that must not have the colour of i.
template <class Each> int64_t first_fit(int64_t n, int32_t* colour, Each each) {
    std::vector<int64_t> taken_by; // for each colour, the last row that must not have it
    std::fill(colour, colour + n, -1);
    for (int64_t i = 0; i < n; ++i) {
        each(i, [&](int64_t j) {
            if (colour[j] >= 0) taken_by[size_t(colour[j])] = i;
        });
        size_t c = 0;
        while (c < taken_by.size() && taken_by[c] == i) ++c;
        if (c == taken_by.size()) taken_by.push_back(-1);
        colour[i] = int32_t(c);
    }
    return int64_t(taken_by.size());
}

} // namespace

int64_t colour_first_fit(const Pattern& p, int32_t* colour) {
    const Transposed t(p);
    return first_fit(p.n, colour, [&](int64_t i, auto f) { each_linked(p, t, i, f); });
}

int64_t colour_disjoint(const Pattern& p, int64_t columns, int32_t* colour) {
    const Transposed t(p, columns);
    return first_fit(p.n, colour, [&](int64_t i, auto f) {
        for (int64_t e = p.start[i]; e < p.start[i + 1]; ++e) {
            const size_t column = size_t(p.column[e]);
            for (int64_t o = t.start[column]; o < t.start[column + 1]; ++o) f(int64_t(t.row[size_t(o)]));
        }
    });
}

int64_t colour_red_black(const Pattern& p, int32_t* colour) {
    const Transposed t(p);
    std::vector<int64_t> reached;
    std::fill(colour, colour + p.n, -1);
    int64_t odd = -1;
    for (int64_t first = 0; first < p.n; ++first) {
        if (colour[first] >= 0) continue;
        colour[first] = 0;
        reached.assign(1, first);
        for (size_t at = 0; at < reached.size() && odd < 0; ++at) {
            const int64_t i = reached[at];
            each_linked(p, t, i, [&](int64_t j) {
                if (colour[j] == colour[i])
                    odd = i;
                else if (colour[j] < 0) {
                    colour[j] = 1 - colour[i];
                    reached.push_back(j);
                }
            });
        }
        if (odd >= 0) return odd;
    }
    return -1;
}

int64_t check_colours(const Pattern& p, const int32_t* colour) {
    for (int64_t i = 0; i < p.n; ++i)
        for (int64_t e = p.start[i]; e < p.start[i + 1]; ++e)
            if (p.column[e] != i && colour[p.column[e]] == colour[i]) return i;
    return -1;
}

void quotient(const Pattern& p, int64_t size, std::vector<int64_t>& start, std::vector<int32_t>& column) {
    const int64_t clusters = (p.n + size - 1) / size;
    std::vector<int64_t> visited(size_t(clusters), -1);
    start.assign(1, 0);
    column.clear();
    for (int64_t c = 0; c < clusters; ++c) {
        for (int64_t e = p.start[c * size]; e < p.start[std::min(p.n, (c + 1) * size)]; ++e) {
            const int64_t other = p.column[e] / size;
            if (visited[size_t(other)] == c) continue;
            visited[size_t(other)] = c;
            column.push_back(int32_t(other));
        }
        start.push_back(int64_t(column.size()));
    }
}

namespace {
bool is_finite(float x) { return std::isfinite(x); }
bool is_finite(double x) { return std::isfinite(x); }
bool is_finite(Complex x) { return std::isfinite(x.re) && std::isfinite(x.im); }
} // namespace

template <class A>
Fault check_matrix(const Pattern& p, int64_t columns, int64_t entries, const A* value, int64_t* row) {
    Fault fault_ = p.start[0] != 0 || p.start[p.n] != entries ? Fault::pointers : Fault::none;
    *row = 0;
    for (int64_t i = 0; i < p.n && fault_ == Fault::none; ++i)
        if (p.start[i] > p.start[i + 1]) {
            fault_ = Fault::pointers;
            *row = i;
        }
    auto worse = [&](Fault fault, int64_t i) {
        if (fault > fault_) {
            fault_ = fault;
            *row = i;
        }
    };
    for (int64_t i = 0; i < p.n && fault_ < Fault::pointers; ++i)
        for (int64_t e = p.start[i]; e < p.start[i + 1]; ++e) {
            if (p.column[e] < 0 || p.column[e] >= columns) {
                *row = i;
                fault_ = Fault::column;
            }
            if (fault_ == Fault::column) break;
            if (e > p.start[i] && p.column[e] <= p.column[e - 1]) worse(Fault::unsorted, i);
        }
    if (fault_ >= Fault::pointers) return fault_;
    for (int64_t i = 0; i < p.n; ++i)
        for (int64_t e = p.start[i]; e < p.start[i + 1]; ++e)
            if (!is_finite(value[e])) {
                *row = i;
                return Fault::not_finite;
            }
    return fault_;
}

template Fault check_matrix(const Pattern&, int64_t, int64_t, const float*, int64_t*);
template Fault check_matrix(const Pattern&, int64_t, int64_t, const double*, int64_t*);
template Fault check_matrix(const Pattern&, int64_t, int64_t, const Complex*, int64_t*);

} // namespace fastiter::relax
