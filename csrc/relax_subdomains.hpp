// Sweeps over lists of rows, given from call to call, that may overlap: Schwarz methods.
#pragma once
#include "cpu/relax_kernels.hpp"

namespace fastiter {

// A (n, n) in compressed rows, and lists of its rows, each with a matrix (rows, rows) by rows in `inverse`
template <class A, class V> struct Subdomains {
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
    const A* value = nullptr;
    int64_t count = 0;
    const int64_t* first = nullptr; // (count + 1) of the rows of each; null: each has one
    const int32_t* row = nullptr;
    const int64_t* first_inverse = nullptr; // (count + 1)
    const sum_of<V>* inverse = nullptr;
};

// y_S = keep x_S + omega inverse_S (b - A x)_S for one S after the other, from the last if backward; x, y, b (n, k). Where y is
// x, each S knows what those before it did.
template <class A, class V>
void relax_subdomains(const Subdomains<A, V>&, const V* x, V* y, const V* b, int64_t k, double keep, double omega,
                      bool backward);

} // namespace fastiter
