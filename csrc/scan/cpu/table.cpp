// The table of the scans.
#include "scan/cpu/sequences.hpp"

namespace fastiter::scan::FASTITER_LEVEL {
namespace {

template <class S>
constexpr LinearScanKernels<S> linear_for = {
    linear_scan<S>,
    linear_scan_gradient_workspace<S>,
    linear_scan_gradient<S>,
};
template <class T>
constexpr BlockScanKernels<T> block_for = {
    block_scan<T>,
    block_scan_gradient_workspace<T>,
    block_scan_gradient<T>,
};

} // namespace

const Kernels kernels = {linear_for<float>, linear_for<double>, linear_for<bf16>, block_for<float>, block_for<double>};

} // namespace fastiter::scan::FASTITER_LEVEL
