// Matrices prepared for relaxation: permuted copies in the layouts of relax/cpu/kernels.hpp, and their sweeps.
#pragma once
#include "core/memory.hpp"
#include "relax/cpu/kernels.hpp"
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace fastiter::relax {

enum class SweepKind { forward, backward, symmetric, jacobi };

// One omega and one momentum per sweep; d null: no momentum. Symmetric: a sweep is a forward and a backward half. Only
// the clusters of colours [first, last) are relaxed (for Jacobi, all clusters); last < 0: up to the last colour.
struct Sweeps {
    const double* omega = nullptr;
    const double* momentum = nullptr;
    int64_t count = 0;
    SweepKind kind = SweepKind::forward;
    int64_t first = 0, last = -1;
};

class RelaxMatrix {
public:
    virtual ~RelaxMatrix() = default;
    // x, b, d (n, k) contiguous, in the caller's order; x and d are overwritten.
    virtual void sweep(void* x, const void* b, void* d, int64_t k, const Sweeps&) = 0;
    // r null: computes only the squared norms (k) of b - A x.
    virtual void residual(const void* x, const void* b, void* r, int64_t k, double* norms) = 0;
};

// A (n, n) as CSR with sorted columns. `order` null: in the same order; else row t of the copy is row order[t].
template <class A> struct Csr {
    int64_t n = 0;
    const int64_t* start = nullptr;
    const int32_t* column = nullptr;
    const A* value = nullptr;
    const int32_t* order = nullptr;
};

// Clusters of consecutive rows of the copy, and colours of consecutive clusters: the first of each, then the end
struct Clusters {
    std::vector<int64_t> rows, colours;
};

enum class Part { all, lower, upper }; // part of the copy

// A zero on the diagonal, or a singular diagonal block, in one system of a batch
class SingularRow : public std::runtime_error {
public:
    explicit SingularRow(int64_t row, int64_t system = 0) : std::runtime_error("singular"), row(row), system(system) {}
    int64_t row, system;
};

// batch > 0: value has shape (batch, entries).
template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_rows(const Csr<A>&, const Clusters&, Part, int64_t batch);
// colours: the first row of each colour in `order`, then the end
template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_slices(const Csr<A>&, const std::vector<int64_t>& colours, Part);
// n block rows of blocks of size x size, row-major in `value`; rows of the scalar matrix from `rows` on are padding.
// batch as above
template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_blocks(const Csr<A>&, int size, int64_t rows, const Clusters&, int64_t batch);
template <class A, class V> std::unique_ptr<RelaxMatrix> prepare_dense(int64_t n, const A* value, const int32_t* order);
// A need not be square: it has `columns` columns; batch as above.
template <class A, class V>
std::unique_ptr<RelaxMatrix> prepare_kaczmarz(const Csr<A>&, int64_t columns, int64_t batch);

// grid (n0, n1, n2), n1 = 1 for two axes. coefficients (7) or (7, n0, n1, n2); fixed: 1 where x is fixed, null:
// nowhere. order: (points) with its clusters; null: red-black or natural order
struct StencilOrder {
    bool red_black = false, projections = false; // projections: Kaczmarz, not division by the diagonal
    const int32_t* order = nullptr;
    Clusters clusters;
};
template <class T>
std::unique_ptr<RelaxMatrix> prepare_stencil(const int64_t (&grid)[3], const T* coefficients, bool is_constant,
                                             const uint8_t* fixed, const StencilOrder&);

#define FASTITER_RELAX_NUMBERS(DO) DO(float, float) DO(float, double) DO(double, double) DO(Complex, Complex)

} // namespace fastiter::relax
