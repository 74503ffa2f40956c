// What the matrix product and the elementwise functions take.
#pragma once
#include "team.hpp"
#include <cstddef>
#include <cstdint>

namespace fastiter {

// An (outer, inner) index over rows i: element i is at (i / inner) * outer_stride + (i % inner) * inner_stride.
struct SplitIndex {
    int64_t inner = INT64_MAX, outer_stride = 0, inner_stride = 1;
    bool is_regular(int64_t count) const { return count <= inner; }
    int64_t at(int64_t i) const {
        return i < inner ? i * inner_stride : (i / inner) * outer_stride + (i % inner) * inner_stride;
    }
};

// c (M, N) = a (M, K) b (K, N) + bias (N) or null, or c += a b with `accumulate`; c has unit column stride and does not
// overlap a or b. Sums run over k in order, in blocks of fixed size: results do not depend on the number of threads.
template <class T> struct Gemm {
    int64_t M = 0, N = 0, K = 0;
    const T* a = nullptr;
    SplitIndex a_m, a_k;
    const T* b = nullptr;
    SplitIndex b_k, b_n;
    const T* bias = nullptr;
    T* c = nullptr;
    SplitIndex c_m;
    bool accumulate = false;
    void* workspace = nullptr;
};

enum class Function { exp, sigmoid, tanh, log_sigmoid };
constexpr int kFunctions = 4;

} // namespace fastiter
