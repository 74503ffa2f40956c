// Schwarz sweeps over possibly overlapping subdomains, which are passed with each call.
#pragma once
#include "relax/cpu/kernels.hpp"

namespace fastiter::relax {

// A (n, n) as CSR, and subdomains: lists of rows, each with a row-major matrix (rows, rows) in `inverse`
template <class A, class V> struct Subdomains {
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
    const A* value = nullptr;
    int64_t count = 0;
    const int64_t* first = nullptr; // (count + 1) first index into `row` of each subdomain; null: one row each
    const int32_t* row = nullptr;
    const int64_t* first_inverse = nullptr; // (count + 1)
    const sum_of<V>* inverse = nullptr;
};

// y_S = keep x_S + omega inverse_S (b - A x)_S for each subdomain S in order, reversed if backward; x, y, b (n, k). If
// y is x, the method is multiplicative: each S sees the updates of the previous ones.
template <class A, class V>
void sweep_schwarz(const Subdomains<A, V>&, const V* x, V* y, const V* b, int64_t k, double keep, double omega,
                   bool backward);

} // namespace fastiter::relax
